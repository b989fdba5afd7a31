"""Deformable DETR of the transformers library (``DeformableDetrForObjectDetection``): one-stage, with box refinement, two-stage.

Query sets: ``content`` and ``position`` (B, N, D) and ``references`` (B, N, 2 or 4) in 0..1. What is missing is made by the
receiving model: in two-stage mode content and position from the references (so boxes of a model of any width will do), in
one-stage mode the references from the position.

Two things in the library differ from the published recipe: the class term weighs 1 instead of 2, and in two-stage mode the
encoder's proposals get no loss, so that their head is never trained. ``criterion: published`` restores both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from torch import nn

from kdflow.detectors import deformable_stages as parts
from kdflow.detectors.bridge import PortSpec, family
from kdflow.detectors.carried_build import backbone_config, build_model, load_backbone, parameters_of
from kdflow.detectors.carried_parts import (
    TARGET_INPUTS,
    Criterion,
    HfDetector,
    Match,
    Postprocess,
    Prepare,
    criterion_call,
    detection_stage,
    draws,
    inner,
    loss_ports,
    matching_stages,
    port,
)
from kdflow.detectors.options import typed_options
from kdflow.errors import UsageError
from kdflow.kinds import LAYERS, TOKENS
from kdflow.ports import DETECTORS, Call, Detector, PortEntry, Stage

TERMS = ("loss_ce", "loss_bbox", "loss_giou")
PUBLISHED_CLASS_WEIGHT = 2.0


def make_criterion(config: Any) -> Any:
    """The library's criterion with its own matcher."""
    from transformers.loss import loss_deformable_detr as library

    costs = {name: getattr(config, name) for name in ("class_cost", "bbox_cost", "giou_cost")}
    return library.DeformableDetrImageLoss(
        library.DeformableDetrHungarianMatcher(**costs),
        config.num_labels,
        config.focal_alpha,
        ["labels", "boxes", "cardinality"],
    )


def loss_weights(config: Any, published: bool) -> Mapping[str, float]:
    """Factor per loss term."""
    return {
        "loss_ce": PUBLISHED_CLASS_WEIGHT if published else 1,
        "loss_bbox": config.bbox_loss_coefficient,
        "loss_giou": config.giou_loss_coefficient,
    }


def feature_stages(core: Any, normalize: str) -> dict[str, Stage]:
    """From images to encoder memory."""
    random = draws(core.config)
    return {
        "normalize": Stage(Prepare(normalize), {"images": "images", "image_sizes": "image_sizes"}, ("pixels", "mask")),
        "backbone": Stage(parts.Backbone(core.backbone.model), {"pixels": "normalize.pixels"}, ("maps",), dense=True),
        "projection": Stage(parts.Projection(core.input_proj), {"maps": "backbone"}, ("maps",), dense=True),
        "layout": Stage(
            parts.Layouts(core), {"maps": "neck", "mask": "normalize.mask", "pixels": "normalize.pixels"}, ("layout",)
        ),
        "encoder": Stage(
            parts.Encoder(core.encoder), {"maps": "neck", "layout": "encoder.layout"}, ("maps",), stochastic=random
        ),
        "memory": Stage(parts.Memory(), {"maps": "encoder.memory"}, ("tokens",)),
    }


def query_stages(model: Any) -> dict[str, Stage]:
    """Queries, decoder, heads."""
    core, memory = model.model, {"tokens": "decoder.tokens", "layout": "encoder.layout"}
    eager = core.config._attn_implementation == "eager"
    extra = ("self_attention", "cross_attention") if eager else ()
    if core.config.two_stage:
        first = Stage(parts.Proposals(core), memory, ("queries", "indices", "logits", "boxes"))
    else:
        first = Stage(parts.Learned(core), {"tokens": "decoder.tokens"}, ("queries",))
    return {
        "selection": first,
        "decoder": Stage(
            parts.Decoder(core, eager),
            {"queries": "decoder.queries", **memory},
            ("states", "references", *extra),
            stochastic=draws(core.config),
        ),
        "heads": Stage(
            parts.Heads(model.class_embed, model.bbox_embed),
            {"states": "decoder.states", "references": "decoder.references"},
            ("logits", "boxes"),
        ),
    }


def proposal_stages(criterion: Criterion) -> tuple[dict[str, Stage], dict[str, Any]]:
    """The published loss on every encoder token, with all classes taken as one."""
    match, loss = parts.ProposalMatch(Match(criterion.make)), parts.ProposalLoss(criterion)
    inputs = {"logits": "encoder.logits", "boxes": "encoder.boxes", **TARGET_INPUTS}
    stages = {
        "match.proposals": Stage(match, inputs, ("indices",)),
        "criterion.proposals": Stage(loss, {**inputs, "pairs": "match.proposals"}, loss.names),
    }
    pairs = inner("match.proposals", "indices", "pairs of encoder tokens and objects")
    return stages, {"match.proposals": pairs, **loss_ports("criterion.proposals", loss.names)}


def feature_ports(core: Any) -> dict[str, Any]:
    """Ports up to the decoder's tokens."""
    config, channels = core.config, tuple(core.backbone.intermediate_channel_sizes)
    strides = tuple(32 >> i for i in range(len(channels)))[::-1]
    levels = strides + tuple(64 << i for i in range(config.num_feature_levels - len(strides)))
    maps = {"channels": (config.d_model,) * len(levels), "strides": levels, "length": len(levels)}
    return {
        "normalize.pixels": inner("normalize", "pixels", "normalised images"),
        "normalize.mask": inner("normalize", "mask", "1 inside the images"),
        "backbone": port("backbone", "backbone", "maps", channels=channels, strides=strides, length=len(strides)),
        "neck": port("neck", "projection", "maps", **maps),
        "encoder.inputs": port("encoder.inputs", "projection", "maps", **maps),
        "encoder.layout": inner("layout", "layout", "padding, positions and sizes of the levels"),
        "encoder.memory": port("encoder.memory", "encoder", "maps", **maps),
        "decoder.tokens": inner("memory", "tokens", "memory as the decoder reads it, (B, S, D)", TOKENS),
    }


def decoder_ports(config: Any) -> dict[str, Any]:
    """Ports of queries, decoder and heads."""
    length = config.decoder_layers
    logit: dict[str, Any] = {"node": "transformer/logit", "length": 1}
    form = "cxcywh" if config.two_stage else "points"
    ports = {
        "decoder.queries": port("decoder.queries", "selection", "queries"),
        "decoder.states": port(
            "decoder.states", "decoder", "states", channels=(config.d_model,) * length, length=length
        ),
        "decoder.references": port("decoder.references", "decoder", "references", length=length, form=form),
        "decoder.logits": port("decoder.logits", "heads", "logits", length=length, form="sigmoid"),
        "decoder.boxes": port("decoder.boxes", "heads", "boxes", length=length, form="cxcywh"),
        "detections": port("detections", "postprocess", "detections"),
    }
    if config.two_stage:
        ports["encoder.indices"] = inner("selection", "indices", "(B, N) encoder token behind each query")
        ports["encoder.logits"] = PortSpec(
            LAYERS, "selection", "logits", form="sigmoid", doc="scores of every encoder token", **logit
        )
        ports["encoder.boxes"] = PortSpec(
            LAYERS, "selection", "boxes", form="cxcywh", doc="boxes of every encoder token", **logit
        )
    if config._attn_implementation == "eager":
        for name in ("self_attention", "cross_attention"):
            ports[f"decoder.{name}"] = port(f"decoder.{name}", "decoder", name, length=length)
    return ports


def calls(criterion: Criterion) -> dict[str, Call]:
    """What a method may run again."""
    results = {n: f"decoder.{n}" for n in ("states", "logits", "boxes", "references", "queries")}
    memory = {"memory": "encoder.memory"}
    return {
        "encoder": Call({"features": "neck"}, memory, doc="encoder on other maps"),
        "transformer": Call(
            {"features": "neck", "queries": "decoder.queries"},
            results | memory,
            doc="encoder and decoder on other maps or queries",
        ),
        "decoder": Call(
            {"queries": "decoder.queries", **memory}, results, doc="decoder and heads on other queries or memory"
        ),
        "heads": Call(
            {"states": "decoder.states", "references": "decoder.references"},
            {n: results[n] for n in ("logits", "boxes")},
            doc="heads on other decoder states",
        ),
        "criterion": criterion_call(criterion),
    }


def untrained_modules(model: Any, published: bool) -> list[tuple[nn.Module, list[PortEntry]]]:
    """Modules that the losses do not reach, and what a method may compare to train them."""
    if not model.config.two_stage or published:
        return []
    core, logits, boxes = model.model, ("encoder.logits", 0), ("encoder.boxes", 0)
    shared = [(module, [logits, boxes]) for module in (core.enc_output, core.enc_output_norm)]
    return [(model.class_embed[-1], [logits]), (model.bbox_embed[-1], [boxes]), *shared]


def wrap(model: Any, classes: Sequence[str], criterion: str, auxiliary_loss: bool, normalize: str) -> Detector:
    """The detector around a library model. The backbone is made trainable (the library freezes its own ResNets by accident)."""
    model.config.auxiliary_loss = auxiliary_loss
    model.model.unfreeze_backbone()
    config, published = model.config, criterion == "published"
    set_loss = Criterion(
        partial(make_criterion, config),
        TERMS,
        loss_weights(config, published),
        "_{}" if auxiliary_loss else None,
        config.decoder_layers,
    )
    matching, matching_ports = matching_stages(set_loss)
    proposals: tuple[dict[str, Stage], dict[str, Any]] = ({}, {})
    if published and config.two_stage:
        proposals = proposal_stages(set_loss)
    stages = {
        **feature_stages(model.model, normalize),
        **query_stages(model),
        **matching,
        **proposals[0],
        "postprocess": detection_stage(Postprocess("DeformableDetrImageProcessor", top_k=100)),
    }
    ports = {**feature_ports(model.model), **decoder_ports(config), **matching_ports, **proposals[1]}
    losses = {p.removeprefix("losses."): p for p in ports if p.startswith("losses.")}
    unused = parameters_of(model, untrained_modules(model, published))
    return HfDetector("deformable-detr", tuple(classes), model, ports, stages, calls(set_loss), losses, 1, unused)


@typed_options("deformable-detr")
def build(
    classes: tuple[str, ...],
    *,
    weights: str | None = None,
    two_stage: bool = True,
    box_refine: bool = True,
    backbone: str = "resnet50",
    pretrained_backbone: str | None = None,
    widths: tuple[int, ...] = (),
    depths: tuple[int, ...] = (),
    d_model: int = 256,
    levels: int = 4,
    encoder_layers: int = 6,
    decoder_layers: int = 6,
    heads: int = 8,
    ffn: int = 1024,
    queries: int = 300,
    points: int = 4,
    dropout: float = 0.1,
    auxiliary_loss: bool = True,
    criterion: Literal["library", "published"] = "library",
    attention: Literal["sdpa", "eager"] = "sdpa",
    normalize: Literal["imagenet", "none"] = "imagenet",
) -> Detector:
    """Deformable DETR. Its backbone's BatchNorms are constants: give it ``pretrained_backbone`` or train for long.

    Args:
        classes: Class names in label order.
        weights: State-dict file, folder of ``save_pretrained``, or hub name (the last two bring their own architecture).
        two_stage: Queries are the best encoder tokens' boxes instead of learned.
        box_refine: Every layer refines the boxes of the one before (two-stage needs it).
        backbone: ``resnet18`` ... ``resnet101``, or ``timm:<name>``.
        pretrained_backbone: State-dict file, folder or hub name for the backbone alone.
        widths: Channels of the backbone's four stages instead of the usual ones.
        depths: Blocks of the backbone's four stages instead of the usual ones.
        d_model: Width; a multiple of 32.
        levels: Feature levels: the last backbone stages, then stride-2 convolutions.
        encoder_layers: Encoder layers.
        decoder_layers: Decoder layers.
        heads: Attention heads.
        ffn: Hidden width of the feed-forward layers.
        queries: Number of queries.
        points: Sampled points per head and level.
        dropout: Dropout rate.
        auxiliary_loss: Losses on every decoder layer, not on the last alone.
        criterion: ``published`` weighs the class term 2 and adds the loss on the encoder's proposals.
        attention: ``eager`` offers the attention ports.
        normalize: Pixel statistics.

    Raises:
        UsageError: Options contradict each other.
    """
    from transformers import DeformableDetrForObjectDetection

    if d_model % 32:
        raise UsageError(f"deformable-detr: d_model is {d_model}, but its group norms need a multiple of 32")
    body = backbone_config(backbone, widths, depths, (2, 3, 4)[-min(levels, 3) :])
    settings = {
        "backbone_config": body,
        "d_model": d_model,
        "num_feature_levels": levels,
        "two_stage": two_stage,
        "with_box_refine": box_refine,
        "num_queries": queries,
        "two_stage_num_proposals": queries,
        "encoder_layers": encoder_layers,
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": ffn,
        "encoder_n_points": points,
        "decoder_layers": decoder_layers,
        "decoder_attention_heads": heads,
        "decoder_ffn_dim": ffn,
        "decoder_n_points": points,
        "dropout": dropout,
    }
    model, names = build_model(DeformableDetrForObjectDetection, settings, classes, weights, attention)
    if pretrained_backbone:
        load_backbone(model.model.backbone.model, pretrained_backbone)
    return wrap(model, names, criterion, auxiliary_loss, normalize)


DETECTORS.add(
    "deformable-detr",
    family(
        build,
        "transformer",
        "transformers",
        "Apache-2.0",
        "Deformable DETR, one- or two-stage, with or without box refinement",
    ),
)
