"""DETR and Conditional DETR of the transformers library, with what they share with DAB-DETR.

Query sets: ``position`` (B, N, D); ``content`` is 0 where not given. Conditional DETR derives its reference points from the
position, in the receiving model.

The library's ``auxiliary_loss`` flag changes the *forward* pass of these two models: the decoder's norm is then applied after
every layer, its result goes on to the next layer, and the last state is normed twice. Here the two things are apart:
``layer_norms: every`` is that pass, ``last`` the published one, and ``auxiliary_loss`` only says where losses are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from kdflow.detectors import detr_stages as parts
from kdflow.detectors.bridge import family
from kdflow.detectors.carried_parts import TERMS, loss_weights
from kdflow.detectors.deformable_detr import make_criterion as make_sigmoid_criterion
from kdflow.detectors.carried_parts import Backbone
from kdflow.detectors.carried_build import backbone_config, build_model, load_backbone
from kdflow.detectors.carried_parts import (
    Criterion,
    HfDetector,
    Postprocess,
    Prepare,
    criterion_call,
    detection_stage,
    draws,
    inner,
    matching_stages,
    port,
)
from kdflow.detectors.options import typed_options
from kdflow.kinds import TENSOR, TOKENS
from kdflow.ports import DETECTORS, Call, Detector, Stage

MEMORY = {"tokens": "decoder.tokens", "layout": "encoder.layout"}


def make_criterion(config: Any) -> Any:
    """DETR's criterion (softmax, C+1 classes) with its own matcher."""
    from transformers.loss import loss_for_object_detection as library

    costs = {name: getattr(config, name) for name in ("class_cost", "bbox_cost", "giou_cost")}
    return library.ImageLoss(
        library.HungarianMatcher(**costs), config.num_labels, config.eos_coefficient, ["labels", "boxes", "cardinality"]
    )


def feature_stages(
    core: Any, backbone: Any, position: Any, normalize: str, codes: str, by_map: bool
) -> dict[str, Stage]:
    """From images to encoder memory.

    Args:
        core: The library's model without heads.
        backbone: Its backbone.
        position: Its position code.
        normalize: ``imagenet`` or ``none``.
        codes: The encoder's name for position codes.
        by_map: The position code takes the map instead of its shape.
    """
    encoder = parts.Encoder(core.encoder, codes)
    return {
        "normalize": Stage(Prepare(normalize), {"images": "images", "image_sizes": "image_sizes"}, ("pixels", "mask")),
        "backbone": Stage(Backbone(backbone), {"pixels": "normalize.pixels"}, ("maps",), dense=True),
        "projection": Stage(parts.Projection(core.input_projection), {"maps": "backbone"}, ("maps",), dense=True),
        "layout": Stage(
            parts.Layouts(position, by_map),
            {"maps": "neck", "mask": "normalize.mask", "pixels": "normalize.pixels"},
            ("layout",),
        ),
        "encoder": Stage(
            encoder, {"maps": "neck", "layout": "encoder.layout"}, ("maps",), stochastic=draws(core.config)
        ),
        "memory": Stage(parts.Memory(), {"maps": "encoder.memory"}, ("tokens",)),
    }


def query_stages(model: Any, points: bool, attention: bool) -> dict[str, Stage]:
    """Queries, decoder, heads; ``points`` where the model has reference points."""
    core = model.model
    extra = (("references",) if points else ()) + (("self_attention", "cross_attention") if attention else ())
    inputs = {"states": "decoder.states", "stack": "decoder.stack"} | (
        {"references": "decoder.references"} if points else {}
    )
    return {
        "selection": Stage(parts.Queries(core.query_position_embeddings), {"tokens": "decoder.tokens"}, ("queries",)),
        "decoder": Stage(
            parts.Decoder(core.decoder, attention),
            {"queries": "decoder.queries", **MEMORY},
            ("states", "stack", *extra),
            stochastic=draws(core.config),
        ),
        "heads": Stage(parts.Heads(model.class_labels_classifier, model.bbox_predictor), inputs, ("logits", "boxes")),
    }


def feature_ports(channels: Sequence[int], width: int) -> dict[str, Any]:
    """Ports up to the decoder's tokens."""
    maps: dict[str, Any] = {"channels": (width,), "strides": (32,), "length": 1}
    strides = tuple(32 >> i for i in range(len(channels)))[::-1]
    return {
        "normalize.pixels": inner("normalize", "pixels", "normalised images"),
        "normalize.mask": inner("normalize", "mask", "1 inside the images"),
        "backbone": port(
            "backbone", "backbone", "maps", channels=tuple(channels), strides=strides, length=len(strides)
        ),
        "neck": port("neck", "projection", "maps", **maps),
        "encoder.inputs": port("encoder.inputs", "projection", "maps", **maps),
        "encoder.layout": inner("layout", "layout", "padding, positions and size of the map"),
        "encoder.memory": port("encoder.memory", "encoder", "maps", **maps),
        "decoder.tokens": inner("memory", "tokens", "memory as the decoder reads it, (B, S, D)", TOKENS),
    }


def decoder_ports(length: int, width: int, form: str, references: str, attention: bool) -> dict[str, Any]:
    """Ports of queries, decoder and heads.

    Args:
        length: Decoder layers.
        width: Width of the states.
        form: ``softmax`` or ``sigmoid``.
        references: ``points``, ``cxcywh``, or empty where the model has none.
        attention: Attention ports are offered.
    """
    ports = {
        "decoder.queries": port("decoder.queries", "selection", "queries"),
        "decoder.states": port("decoder.states", "decoder", "states", channels=(width,) * length, length=length),
        "decoder.stack": inner("decoder", "stack", "what the heads read of the earlier layers, (L, B, N, D)", TENSOR),
        "decoder.logits": port("decoder.logits", "heads", "logits", length=length, form=form),
        "decoder.boxes": port("decoder.boxes", "heads", "boxes", length=length, form="cxcywh"),
        "detections": port("detections", "postprocess", "detections"),
    }
    if references:
        ports["decoder.references"] = port(
            "decoder.references", "decoder", "references", length=length, form=references
        )
    for name in ("self_attention", "cross_attention") if attention else ():
        ports[f"decoder.{name}"] = port(f"decoder.{name}", "decoder", name, length=length)
    return ports


def calls(criterion: Criterion, ports: Mapping[str, Any]) -> dict[str, Call]:
    """What a method may run again; of the decoder's results those that are ports."""
    words = ("states", "logits", "boxes", "queries", "references", "self_attention", "cross_attention")
    results = {n: f"decoder.{n}" for n in words if f"decoder.{n}" in ports}
    memory = {"memory": "encoder.memory"}
    return {
        "encoder": Call({"features": "neck"}, memory, doc="encoder on another map"),
        "transformer": Call(
            {"features": "neck", "queries": "decoder.queries"},
            results | memory,
            doc="encoder and decoder on another map or queries",
        ),
        "decoder": Call(
            {"queries": "decoder.queries", **memory}, results, doc="decoder and heads on other queries or memory"
        ),
        "criterion": criterion_call(criterion),
    }


def assemble(
    name: str,
    model: Any,
    classes: Sequence[str],
    stages: Mapping[str, Stage],
    ports: Mapping[str, Any],
    criterion: Criterion,
    postprocess: Postprocess,
) -> Detector:
    """Put matching, losses and post-processing behind the given stages. The backbone is made trainable."""
    model.model.unfreeze_backbone()
    matching, matching_ports = matching_stages(criterion)
    found = {**ports, **matching_ports}
    losses = {p.removeprefix("losses."): p for p in found if p.startswith("losses.")}
    again = calls(criterion, found)
    whole = {**stages, **matching, "postprocess": detection_stage(postprocess)}
    return HfDetector(name, tuple(classes), model, found, whole, again, losses, size_divisor=1)


def wrap(
    name: str,
    model: Any,
    classes: Sequence[str],
    make: Callable[[Any], Any],
    weights: Mapping[str, float],
    auxiliary_loss: bool,
    normalize: str,
    postprocess: Postprocess,
) -> Detector:
    """The detector around a DETR or Conditional DETR of the library."""
    core, config = model.model, model.config
    attention, points = config._attn_implementation == "eager", name != "detr"
    stages = {
        **feature_stages(
            core, core.backbone.model, core.position_embedding, normalize, "spatial_position_embeddings", False
        ),
        **query_stages(model, points, attention),
    }
    ports = {
        **feature_ports(core.backbone.intermediate_channel_sizes, config.d_model),
        **decoder_ports(
            config.decoder_layers,
            config.d_model,
            "sigmoid" if points else "softmax",
            "points" if points else "",
            attention,
        ),
    }
    criterion = Criterion(
        partial(make, config), TERMS, weights, "_{}" if auxiliary_loss else None, config.decoder_layers
    )
    return assemble(name, model, classes, stages, ports, criterion, postprocess)


@typed_options("detr")
def build_detr(
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
    queries: int = 100,
    dropout: float = 0.1,
    auxiliary_loss: bool = True,
    layer_norms: Literal["last", "every"] | None = None,
    attention: Literal["sdpa", "eager"] = "sdpa",
    normalize: Literal["imagenet", "none"] = "imagenet",
) -> Detector:
    """DETR (softmax over C+1 classes). Its backbone's BatchNorms are constants: give it ``pretrained_backbone``.

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
        queries: Number of queries.
        dropout: Dropout rate.
        auxiliary_loss: Losses on every decoder layer, not on the last alone.
        layer_norms: ``every`` is the library's pass under its ``auxiliary_loss`` flag, ``last`` the published one; not given,
            stored models keep theirs and new ones are as published.
        attention: ``eager`` offers the attention ports.
        normalize: Pixel statistics.
    """
    from transformers import DetrForObjectDetection

    settings = detr_settings(
        backbone_config(backbone, widths, depths, (4,)), d_model, encoder_layers, decoder_layers, heads, ffn
    )
    settings |= {"num_queries": queries, "dropout": dropout}
    model, names = build_model(DetrForObjectDetection, settings, classes, weights, attention)
    model.config.auxiliary_loss = model.config.auxiliary_loss if layer_norms is None else layer_norms == "every"
    if pretrained_backbone:
        load_backbone(model.model.backbone.model, pretrained_backbone)
    factors, postprocess = loss_weights(model.config, False), Postprocess("DetrImageProcessor")
    return wrap("detr", model, names, make_criterion, factors, auxiliary_loss, normalize, postprocess)


@typed_options("conditional-detr")
def build_conditional(
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
    dropout: float = 0.1,
    auxiliary_loss: bool = True,
    layer_norms: Literal["last", "every"] | None = None,
    criterion: Literal["library", "published"] = "library",
    attention: Literal["sdpa", "eager"] = "sdpa",
    normalize: Literal["imagenet", "none"] = "imagenet",
) -> Detector:
    """Conditional DETR, with the options of DETR (:func:`build_detr`) and a choice of criterion.

    Args:
        classes: Class names in label order.
        weights: See :func:`build_detr`.
        backbone: See :func:`build_detr`.
        pretrained_backbone: See :func:`build_detr`.
        widths: See :func:`build_detr`.
        depths: See :func:`build_detr`.
        d_model: See :func:`build_detr`.
        encoder_layers: See :func:`build_detr`.
        decoder_layers: See :func:`build_detr`.
        heads: See :func:`build_detr`.
        ffn: See :func:`build_detr`.
        queries: See :func:`build_detr`.
        dropout: See :func:`build_detr`.
        auxiliary_loss: See :func:`build_detr`.
        layer_norms: See :func:`build_detr`.
        criterion: ``published`` weighs the class term 2, the library 1.
        attention: See :func:`build_detr`.
        normalize: See :func:`build_detr`.
    """
    from transformers import ConditionalDetrForObjectDetection

    settings = detr_settings(
        backbone_config(backbone, widths, depths, (4,)), d_model, encoder_layers, decoder_layers, heads, ffn
    )
    settings |= {"num_queries": queries, "dropout": dropout}
    model, names = build_model(ConditionalDetrForObjectDetection, settings, classes, weights, attention)
    model.config.auxiliary_loss = model.config.auxiliary_loss if layer_norms is None else layer_norms == "every"
    if pretrained_backbone:
        load_backbone(model.model.backbone.model, pretrained_backbone)
    factors = loss_weights(model.config, criterion == "published")
    postprocess = Postprocess("ConditionalDetrImageProcessor", top_k=100)
    return wrap(
        "conditional-detr", model, names, make_sigmoid_criterion, factors, auxiliary_loss, normalize, postprocess
    )


def detr_settings(
    backbone: Any, width: int, encoder_layers: int, decoder_layers: int, heads: int, ffn: int
) -> dict[str, Any]:
    """Configuration keywords that DETR and Conditional DETR share."""
    return {
        "backbone_config": backbone,
        "d_model": width,
        "encoder_layers": encoder_layers,
        "decoder_layers": decoder_layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": ffn,
        "decoder_ffn_dim": ffn,
    }


DETECTORS.add("detr", family(build_detr, "transformer", "transformers", "Apache-2.0", "DETR (softmax)"))
DETECTORS.add(
    "conditional-detr",
    family(build_conditional, "transformer", "transformers", "Apache-2.0", "Conditional DETR"),
)
