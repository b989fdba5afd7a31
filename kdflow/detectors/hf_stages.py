"""Stages, ports and calls that the transformer detectors share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from kdflow.detectors.hf_loss import Criterion, Match, SetLoss
from kdflow.detectors.hf_options import DecoderOptions, TransformerOptions
from kdflow.detectors.hf_parts import Backbone, Memory, Postprocess, Prepare, Projection, Targets, draws
from kdflow.kinds import ANY, BOXES, LABELS, LAYERS, PAIRS, SCALAR, TOKENS
from kdflow.ports import CLASS_DETECTIONS, CLASS_LABELS, CLASS_SCORES, Call, Classes, Port, Stage

GROUND_TRUTH = {"boxes": "targets.boxes", "labels": "targets.labels", "image_sizes": "image_sizes"}
TARGETS = {
    "target_boxes": "match.target_boxes",
    "target_labels": "match.target_labels",
    "image_sizes": "image_sizes",
}
PREDICTIONS = {"logits": "decoder.logits", "boxes": "decoder.boxes"}
TOKEN_PORT = Port("decoder.tokens", TOKENS, doc="memory as the decoder reads it, (B, S, D)")


def body_of(core: Any) -> Any:
    """The wrapper around the backbone of a library model without heads: ``model`` and ``intermediate_channel_sizes``."""
    within = getattr(core, "backbone", core)
    return getattr(within, "conv_encoder", within)


def network_of(core: Any) -> Any:
    """The backbone of a library model without heads."""
    body = body_of(core)
    return body.model if hasattr(body, "model") else body.backbone


def strides_of(own: int, levels: int | None = None) -> tuple[int, ...]:
    """Strides of ``levels`` maps of which the ``own`` first are a backbone's last (the coarsest of those has stride 32)."""
    return tuple(2 ** (6 - own + i) for i in range(levels or own))


def image_stages(core: Any, options: TransformerOptions, refuse_padding: str = "") -> dict[str, Stage]:
    """Normalising and backbone; there is a mask where padding is not refused."""
    channels = tuple(body_of(core).intermediate_channel_sizes)
    return body_stages(core, options, channels, strides_of(len(channels)), refuse_padding)


def body_stages(
    core: Any, options: DecoderOptions, channels: tuple[int, ...], strides: tuple[int, ...], refuse_padding: str = ""
) -> dict[str, Stage]:
    """The same for maps of any strides."""
    pixels, mask = (
        Port("normalize.pixels", ANY, doc="normalised images"),
        Port("normalize.mask", ANY, doc="1 inside the images"),
    )
    return {
        "normalize": Stage(
            Prepare(options.normalize, refuse_padding),
            {"images": "images", "image_sizes": "image_sizes"},
            {"pixels": pixels} if refuse_padding else {"pixels": pixels, "mask": mask},
        ),
        "backbone": Stage(
            Backbone(network_of(core)),
            {"pixels": "normalize.pixels"},
            {"maps": Port("backbone", channels=channels, strides=strides)},
            dense=True,
        ),
    }


def masked_stages(
    core: Any,
    options: TransformerOptions,
    projection: Projection,
    layouts: nn.Module,
    encoder: nn.Module,
    flat: Callable[[list[Tensor]], Tensor],
    strides: tuple[int, ...] = (32,),
) -> dict[str, Stage]:
    """From images to the decoder's tokens, in a transformer that knows the padding.

    Args:
        core: The library's model without heads.
        options: The family's.
        projection: From the backbone's maps to those that the encoder reads.
        layouts: Makes the masks and position codes of these.
        encoder: Gives memory of the same sizes.
        flat: Makes tokens of the memory.
        strides: Of the encoder's maps.
    """
    width = core.config.hidden_size
    maps = [Port(name, channels=width, strides=strides) for name in ("neck", "encoder.inputs", "encoder.memory")]
    layout = Port("encoder.layout", ANY, doc="padding, positions and sizes of the maps")
    around = {"maps": "neck", "mask": "normalize.mask", "pixels": "normalize.pixels"}
    return {
        **image_stages(core, options),
        "projection": Stage(projection, {"maps": "backbone"}, {"maps": (maps[0], maps[1])}, dense=True),
        "layout": Stage(layouts, around, {"layout": layout}),
        "encoder": Stage(
            encoder, {"maps": "neck", "layout": "encoder.layout"}, {"maps": maps[2]}, stochastic=draws(core.config)
        ),
        "memory": Stage(Memory(flat), {"maps": "encoder.memory"}, {"tokens": TOKEN_PORT}),
    }


def state_ports(config: Any, references: str, attention: bool) -> dict[str, Port]:
    """What a decoder gives of each layer: states, what boxes are relative to (in the form ``references``, or none), attention."""
    length, width = config.decoder_layers, getattr(config, "hidden_size", None) or config.d_model
    ports = {"states": Port("decoder.states", channels=width, length=length)}
    if references:
        ports["references"] = Port("decoder.references", length=length, form=references)
    names = ("self_attention", "cross_attention") if attention else ()
    return ports | {name: Port(f"decoder.{name}", length=length) for name in names}


def prediction_ports(config: Any, form: str = "sigmoid") -> dict[str, Port]:
    """What the heads give of each layer."""
    return {
        "logits": Port("decoder.logits", length=config.decoder_layers, form=form, classes=CLASS_SCORES),
        "boxes": Port("decoder.boxes", length=config.decoder_layers, form="cxcywh"),
    }


def proposal_ports(
    tokens: str, scores: str = "class scores", classes: Classes | None = CLASS_SCORES
) -> dict[str, Port]:
    """The encoder token behind each query, and scores and boxes of ``tokens``."""
    node = "transformer/logit"
    logits = Port(
        "encoder.logits", LAYERS, node, length=1, form="sigmoid", classes=classes, doc=f"{scores} of {tokens}"
    )
    return {
        "indices": Port("encoder.indices", ANY, doc="(B, N) encoder token behind each query"),
        "logits": logits,
        "boxes": Port("encoder.boxes", LAYERS, node, length=1, form="cxcywh", doc=f"boxes of {tokens}"),
    }


def head_nodes(decoder: nn.Module) -> dict[str, str]:
    """Taxonomy nodes of the modules that predict inside a stage's ``decoder``; the rest of it stands at its states."""
    heads = ("class_embed", "bbox_embed", "pre_bbox_head", "lqe_layers")
    return {f"decoder.{name}": "transformer/logit" for name in heads if getattr(decoder, name, None) is not None}


def loss_stages(loss: SetLoss, layers: int) -> dict[str, Stage]:
    """Targets, matching and criterion of the decoder layers, in this order."""
    criterion = Criterion(loss, layers)
    total = Port("criterion.total", SCALAR, doc="sum of the decoder layers' loss terms")
    targets = {
        "boxes": Port("match.target_boxes", BOXES, doc="boxes that queries are matched to"),
        "labels": Port("match.target_labels", LABELS, classes=CLASS_LABELS, doc="their classes"),
    }
    pairs = {"indices": Port("match.indices")}
    return {
        "targets": Stage(Targets(), {"boxes": "targets.boxes", "labels": "targets.labels"}, targets),
        "match": Stage(Match(loss), {**PREDICTIONS, **TARGETS}, pairs),
        "criterion": Stage(
            criterion, {**PREDICTIONS, "pairs": "match.indices", **TARGETS}, {**criterion.ports(), "total": total}
        ),
    }


def proposal_stages(loss: SetLoss, suffix: str, tokens: str) -> dict[str, Stage]:
    """Matching and loss of encoder tokens; ``suffix`` ends the names of the terms, ``tokens`` says which tokens."""
    loss = replace(loss, auxiliary="")
    criterion = Criterion(loss, suffix=suffix)
    reads = {"logits": "encoder.logits", "boxes": "encoder.boxes", **TARGETS}
    pairs = Port("match.proposals", PAIRS, doc=f"pairs of {tokens} and objects")
    return {
        "match.proposals": Stage(Match(loss), reads, {"indices": pairs}),
        "criterion.proposals": Stage(criterion, {**reads, "pairs": "match.proposals"}, criterion.ports()),
    }


def detection_stage(postprocess: Postprocess) -> dict[str, Stage]:
    """Post-processing of the last layer."""
    found = {"detections": Port("detections", classes=CLASS_DETECTIONS)}
    return {"postprocess": Stage(postprocess, {**PREDICTIONS, "image_sizes": "image_sizes"}, found)}


def decoder_results(stages: Mapping[str, Stage]) -> dict[str, str]:
    """What a call of the decoder gives: of these words, those that are ports."""
    known = {port.name for stage in stages.values() for _, port in stage.ports}
    words = ("states", "logits", "boxes", "queries", "references", "self_attention", "cross_attention")
    return {word: f"decoder.{word}" for word in words if f"decoder.{word}" in known}


def masked_calls(stages: Mapping[str, Stage]) -> dict[str, Call]:
    """What a method may run again of a transformer that knows the padding."""
    results, memory = decoder_results(stages), {"memory": "encoder.memory"}
    queries = {"queries": "decoder.queries"}
    return {
        "encoder": Call({"features": "neck"}, memory, doc="encoder on other maps"),
        "transformer": Call(
            {"features": "neck", **queries}, results | memory, doc="encoder and decoder on other maps or queries"
        ),
        "decoder": Call({**queries, **memory}, results, doc="decoder and heads on other queries or memory"),
    }


def criterion_call(criterion: Stage) -> Call:
    """The library's set loss on other predictions, targets or pairs."""
    terms = {name: port.name for name, port in criterion.ports}
    inputs = {
        **PREDICTIONS,
        "pairs": "match.indices",
        "target_boxes": "match.target_boxes",
        "target_labels": "match.target_labels",
    }
    doc = "the set loss of the decoder layers on other predictions, targets or pairs"
    return Call(inputs, {**terms, "pairs": "match.indices"}, doc=doc)
