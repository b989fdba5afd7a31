"""DAB-DETR of the transformers library.

Query sets: ``anchors`` (before the sigmoid) or ``references`` (B, N, 4) cxcywh; ``content`` is 0 where not given or of another
width. Queries of a model of any width will therefore do.
"""

from __future__ import annotations

from typing import Any, Literal

from kdflow.detectors import detr_stages as parts
from kdflow.detectors.deformable_detr import make_criterion
from kdflow.detectors.detr import MEMORY, STACK
from kdflow.detectors.hf_build import backbone_config, build_model, transformers_detector, transformers_family
from kdflow.detectors.hf_loss import masked_loss
from kdflow.detectors.hf_options import MaskedOptions
from kdflow.detectors.hf_parts import Postprocess, Projection, draws
from kdflow.detectors.hf_stages import head_nodes, masked_calls, masked_stages, prediction_ports, state_ports
from kdflow.kinds import TENSOR
from kdflow.options import again, option
from kdflow.ports import DETECTORS, Detector, Port, Stage


class DabDetrOptions(MaskedOptions):
    """Options of DAB-DETR."""

    name = "dab-detr"
    d_model: int = again(MaskedOptions, "d_model", 256, "hidden_size")
    patterns: int = option(0, "Learned contents combined with every box; 0 for content 0.", "num_patterns", ge=0)
    attention: Literal["plain", "eager"] = option(  # type: ignore[assignment]
        "plain", "``eager`` offers the attention ports (the library's attention here is always the plain one)."
    )


def stages_of(model: Any, options: DabDetrOptions) -> dict[str, Stage]:
    """From images to predictions."""
    core, config, eager = model.model, model.config, options.attention == "eager"
    projection, layouts = (
        Projection([core.input_projection]),
        parts.Layouts(core.backbone.position_embedding, by_map=True),
    )
    patterns = core.patterns if core.num_patterns > 0 else None
    points = Port("decoder.points", TENSOR, doc="references of all layers, (L, B, N, 4)")
    return {
        **masked_stages(
            core, options, projection, layouts, parts.Encoder(core.encoder, "object_queries"), parts.tokens_of
        ),
        "selection": Stage(
            parts.Queries(core.query_refpoint_embeddings, boxes=True, patterns=patterns),
            {"tokens": "decoder.tokens"},
            {"queries": Port("decoder.queries")},
        ),
        "decoder": Stage(
            parts.AnchorDecoder(core.decoder, eager),
            {"queries": "decoder.queries", **MEMORY},
            {**state_ports(config, "cxcywh", eager), "stack": STACK, "points": points},
            stochastic=draws(config),
            nodes=head_nodes(core.decoder),
        ),
        "heads": Stage(
            parts.AnchorHeads(model.class_embed, model.bbox_predictor),
            {"states": "decoder.states", "stack": "decoder.stack", "points": "decoder.points"},
            prediction_ports(config),
        ),
    }


def make(classes: tuple[str, ...], options: DabDetrOptions) -> Detector:
    """DAB-DETR. Its backbone's BatchNorms are constants: give it ``pretrained_backbone``."""
    from transformers import DabDetrForObjectDetection

    model, names = build_model(DabDetrForObjectDetection, options, classes, backbone_config(options, (4,)))
    model.config.auxiliary_loss = options.auxiliary_loss
    model.model.unfreeze_backbone()
    loss = masked_loss(model.config, options.auxiliary_loss, make_criterion)
    postprocess = Postprocess("ConditionalDetrImageProcessor", top_k=100)
    return transformers_detector(options, names, model, stages_of(model, options), loss, postprocess, masked_calls)


DETECTORS.add(
    DabDetrOptions.name, transformers_family(make, DabDetrOptions, "DAB-DETR: queries are boxes", encoder_layers=2)
)
