"""DAB-DETR of the transformers library.

Query sets: ``anchors`` (before the sigmoid) or ``references`` (B, N, 4) cxcywh; ``content`` is 0 where not given or of another
width. Queries of a model of any width will therefore do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from kdflow.detectors import detr_stages as parts
from kdflow.detectors.bridge import family
from kdflow.detectors.carried_parts import TERMS, loss_weights
from kdflow.detectors.deformable_detr import make_criterion
from kdflow.detectors.detr import MEMORY, assemble, decoder_ports, feature_ports, feature_stages
from kdflow.detectors.carried_build import backbone_config, build_model, load_backbone
from kdflow.detectors.carried_parts import Criterion, Postprocess, draws, inner
from kdflow.detectors.options import typed_options
from kdflow.kinds import TENSOR
from kdflow.ports import DETECTORS, Detector, Stage


def query_stages(model: Any, attention: bool) -> dict[str, Stage]:
    """Queries, decoder, heads."""
    core = model.model
    patterns = core.patterns if core.num_patterns > 0 else None
    extra = ("self_attention", "cross_attention") if attention else ()
    queries = parts.Queries(core.query_refpoint_embeddings, boxes=True, patterns=patterns)
    inputs = {"states": "decoder.states", "stack": "decoder.stack", "points": "decoder.points"}
    return {
        "selection": Stage(queries, {"tokens": "decoder.tokens"}, ("queries",)),
        "decoder": Stage(
            parts.AnchorDecoder(core.decoder, attention),
            {"queries": "decoder.queries", **MEMORY},
            ("states", "references", "stack", "points", *extra),
            stochastic=draws(core.config),
        ),
        "heads": Stage(parts.AnchorHeads(model.class_embed, model.bbox_predictor), inputs, ("logits", "boxes")),
    }


def wrap(model: Any, classes: Sequence[str], auxiliary_loss: bool, attention: bool, normalize: str) -> Detector:
    """The detector around a DAB-DETR of the library."""
    core, config = model.model, model.config
    model.config.auxiliary_loss = auxiliary_loss
    encoder, width = core.backbone.conv_encoder, config.hidden_size
    stages = {
        **feature_stages(core, encoder.model, core.backbone.position_embedding, normalize, "object_queries", True),
        **query_stages(model, attention),
    }
    ports = {
        **feature_ports(encoder.intermediate_channel_sizes, width),
        **decoder_ports(config.decoder_layers, width, "sigmoid", "cxcywh", attention),
        "decoder.points": inner("decoder", "points", "references of all layers, (L, B, N, 4)", TENSOR),
    }
    suffix = "_{}" if auxiliary_loss else None
    criterion = Criterion(
        partial(make_criterion, config), TERMS, loss_weights(config, False), suffix, config.decoder_layers
    )
    postprocess = Postprocess("ConditionalDetrImageProcessor", top_k=100)
    return assemble("dab-detr", model, classes, stages, ports, criterion, postprocess)


@typed_options("dab-detr")
def build(
    classes: tuple[str, ...],
    *,
    weights: str | None = None,
    backbone: str = "resnet50",
    pretrained_backbone: str | None = None,
    widths: tuple[int, ...] = (),
    depths: tuple[int, ...] = (),
    d_model: int = 256,
    encoder_layers: int = 6,
    decoder_layers: int = 6,
    heads: int = 8,
    ffn: int = 2048,
    queries: int = 300,
    patterns: int = 0,
    dropout: float = 0.1,
    auxiliary_loss: bool = True,
    attention: Literal["plain", "eager"] = "plain",
    normalize: Literal["imagenet", "none"] = "imagenet",
) -> Detector:
    """DAB-DETR. Its backbone's BatchNorms are constants: give it ``pretrained_backbone``.

    Args:
        classes: Class names in label order.
        weights: State-dict file, folder of ``save_pretrained``, or hub name (the last two bring their own architecture).
        backbone: ``resnet18`` ... ``resnet101``, or ``timm:<name>``.
        pretrained_backbone: State-dict file, folder or hub name for the backbone alone.
        widths: Channels of the backbone's four stages instead of the usual ones.
        depths: Blocks of the backbone's four stages instead of the usual ones.
        d_model: Width.
        encoder_layers: Encoder layers.
        decoder_layers: Decoder layers.
        heads: Attention heads.
        ffn: Hidden width of the feed-forward layers.
        queries: Number of learned boxes.
        patterns: Learned contents combined with every box; 0 for content 0.
        dropout: Dropout rate.
        auxiliary_loss: Losses on every decoder layer, not on the last alone.
        attention: ``eager`` offers the attention ports (the library's attention here is always the plain one).
        normalize: Pixel statistics.
    """
    from transformers import DabDetrForObjectDetection

    settings = {
        "backbone_config": backbone_config(backbone, widths, depths, (4,)),
        "hidden_size": d_model,
        "encoder_layers": encoder_layers,
        "decoder_layers": decoder_layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": ffn,
        "decoder_ffn_dim": ffn,
        "num_queries": queries,
        "num_patterns": patterns,
        "dropout": dropout,
    }
    model, names = build_model(DabDetrForObjectDetection, settings, classes, weights, attention)
    if pretrained_backbone:
        load_backbone(model.model.backbone.conv_encoder.model, pretrained_backbone)
    return wrap(model, names, auxiliary_loss, attention == "eager", normalize)


DETECTORS.add(
    "dab-detr", family(build, "transformer", "transformers", "Apache-2.0", "DAB-DETR: queries are boxes")
)
