"""RT-DETR and RT-DETRv2 of the transformers library (``RTDetrForObjectDetection``, ``RTDetrV2ForObjectDetection``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from kdflow.detectors import rt_stages as rt
from kdflow.detectors.bridge import PortSpec, family
from kdflow.detectors.carried_build import backbone_config, build_hybrid, channels_of
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
from kdflow.kinds import CELLS, LAYERS, TOKENS
from kdflow.ports import DETECTORS, Call, Detector, Stage

TERMS = ("loss_vfl", "loss_bbox", "loss_giou")
STAGES = (2, 3, 4)
GROUND_TRUTH = {"boxes": "targets.boxes", "labels": "targets.labels", "image_sizes": "image_sizes"}


def make_criterion(config: Any) -> Any:
    """The library's criterion; its matcher, terms and weights come from the configuration."""
    from transformers.loss.loss_rt_detr import RTDetrLoss

    return RTDetrLoss(config)


def feature_stages(core: Any, name: str, normalize: str) -> dict[str, Stage]:
    """From images to decoder tokens."""
    encoder = rt.Encoder(core.encoder)
    images = {"images": "images", "image_sizes": "image_sizes"}
    return {
        "normalize": Stage(Prepare(normalize, refuse_padding=name), images, ("pixels", "mask")),
        "backbone": Stage(rt.Backbone(core.backbone.model), {"pixels": "normalize.pixels"}, ("maps",), dense=True),
        "projection": Stage(rt.Projection(core.encoder_input_proj), {"maps": "backbone"}, ("maps",), dense=True),
        "encoder": Stage(
            encoder, {"maps": "encoder.inputs"}, ("maps",), stochastic=draws(core.config)
        ),
        "tokens": Stage(rt.Tokens(core.decoder_input_proj), {"maps": "neck"}, ("tokens", "grid")),
    }


def query_stages(core: Any, decoder: rt.Decoder) -> dict[str, Stage]:
    """Denoising queries, query selection, decoder. Only the first draws random numbers, as in the library's forward."""
    denoising, selection = rt.Denoising(core), rt.Selection(core)
    tokens = {"tokens": "decoder.tokens", "grid": "decoder.grid"}
    chosen = ("queries", "indices", "all_logits", "logits", "boxes")
    return {
        "denoising": Stage(
            denoising, GROUND_TRUTH, ("noise",), stochastic=core.config.num_denoising > 0
        ),
        "selection": Stage(selection, tokens, chosen),
        "decoder": Stage(
            decoder,
            {"queries": "decoder.queries", "noise": "denoising.noise", **tokens},
            decoder.outputs,
            stochastic=draws(core.config),
            options={"denoising": True},
        ),
    }


def proposal_stages(criterion: Criterion, layers: int) -> tuple[dict[str, Stage], dict[str, Any]]:
    """Matching and loss of the chosen encoder tokens."""
    match, loss = Match(criterion.make, criterion.clamp), rt.ProposalLoss(criterion, layers)
    inputs = {"logits": "encoder.logits", "boxes": "encoder.boxes", **TARGET_INPUTS}
    stages = {
        "match.proposals": Stage(match, inputs, ("indices",)),
        "criterion.proposals": Stage(loss, {**inputs, "pairs": "match.proposals"}, loss.names),
    }
    pairs = inner("match.proposals", "indices", "pairs of chosen encoder tokens and objects")
    return stages, {"match.proposals": pairs, **loss_ports("criterion.proposals", loss.names)}


def denoising_stages(criterion: Criterion, config: Any) -> tuple[dict[str, Stage], dict[str, Any]]:
    """Loss of the denoising queries, where there are any."""
    if config.num_denoising <= 0:
        return {}, {}
    loss = rt.DenoisingLoss(criterion, config.decoder_layers)
    inputs = {"noise": "denoising.noise", "denoised": "decoder.denoised", **GROUND_TRUTH}
    stage = Stage(loss, inputs, loss.names)
    return {"criterion.denoising": stage}, loss_ports("criterion.denoising", loss.names)


def stages_and_ports(core: Any, name: str, normalize: str) -> tuple[dict[str, Stage], dict[str, Any], Criterion]:
    """All stages in the library's order, and all ports."""
    config = core.config
    eager = config._attn_implementation == "eager"
    criterion = Criterion(partial(make_criterion, config), TERMS, {}, "_aux_{}", config.decoder_layers)
    matching, matching_ports = matching_stages(criterion)
    proposals, proposal_ports = proposal_stages(criterion, config.decoder_layers)
    noise, noise_ports = denoising_stages(criterion, config)
    postprocess = detection_stage(Postprocess("RTDetrImageProcessor", use_focal_loss=config.use_focal_loss))
    stages = {
        **feature_stages(core, name, normalize),
        **query_stages(core, rt.Decoder(core.decoder, eager)),
        **matching,
        **proposals,
        **noise,
        "postprocess": postprocess,
    }
    ports = {**feature_ports(core), **decoder_ports(config, eager), **matching_ports, **proposal_ports, **noise_ports}
    return stages, ports, criterion


def feature_ports(core: Any) -> dict[str, Any]:
    """Ports up to the decoder's tokens; ``neck`` and ``encoder.memory`` are the same maps."""
    config, channels = core.config, tuple(core.backbone.intermediate_channel_sizes)
    strides, width = tuple(config.feat_strides), (config.encoder_hidden_dim,) * len(channels)
    maps = {"channels": width, "strides": strides, "length": len(strides)}
    return {
        "normalize.pixels": inner("normalize", "pixels", "normalised images"),
        "backbone": port("backbone", "backbone", "maps", channels=channels, strides=strides, length=len(strides)),
        "encoder.inputs": port("encoder.inputs", "projection", "maps", **maps),
        "neck": port("neck", "encoder", "maps", **maps),
        "encoder.memory": port("encoder.memory", "encoder", "maps", **maps),
        "decoder.tokens": inner("tokens", "tokens", "memory as the decoder reads it, (B, S, D)", TOKENS),
        "decoder.grid": inner("tokens", "grid", "level sizes of these tokens"),
    }


def decoder_ports(config: Any, eager: bool) -> dict[str, Any]:
    """Ports of selection and decoder, without denoising queries."""
    length = config.decoder_layers
    proposals: dict[str, Any] = {"node": "transformer/logit", "length": 1}
    states = {"channels": (config.d_model,) * length, "length": length}
    ports = {
        "denoising.noise": inner("denoising", "noise", "denoising queries of this batch"),
        "decoder.queries": port("decoder.queries", "selection", "queries"),
        "encoder.indices": inner("selection", "indices", "(B, N) encoder token behind each query"),
        "encoder.all_logits": PortSpec(
            CELLS, "selection", "all_logits", form="sigmoid", doc="class scores of every encoder token"
        ),
        "encoder.logits": PortSpec(
            LAYERS, "selection", "logits", form="sigmoid", doc="class scores of the chosen tokens", **proposals
        ),
        "encoder.boxes": PortSpec(
            LAYERS, "selection", "boxes", form="cxcywh", doc="boxes of the chosen tokens", **proposals
        ),
        "decoder.states": port("decoder.states", "decoder", "states", **states),
        "decoder.references": port("decoder.references", "decoder", "references", length=length, form="cxcywh"),
        "decoder.logits": port("decoder.logits", "decoder", "logits", length=length, form="sigmoid"),
        "decoder.boxes": port("decoder.boxes", "decoder", "boxes", length=length, form="cxcywh"),
        "decoder.denoised": inner("decoder", "denoised", "the same of the denoising queries"),
        "detections": port("detections", "postprocess", "detections"),
    }
    if eager:
        for name in ("self_attention", "cross_attention"):
            ports[f"decoder.{name}"] = port(f"decoder.{name}", "decoder", name, length=length)
    return ports


def calls(criterion: Criterion) -> dict[str, Call]:
    """What a method may run again."""
    results = {n: f"decoder.{n}" for n in ("states", "logits", "boxes", "references", "queries")}
    return {
        "encoder": Call({"features": "encoder.inputs"}, {"memory": "neck"}, doc="hybrid encoder on other maps"),
        "transformer": Call(
            {"features": "neck", "queries": "decoder.queries"},
            results,
            {"denoising": "decoder"},
            doc="query selection and decoder on other encoder maps, or the decoder on other queries",
        ),
        "decoder": Call(
            {"queries": "decoder.queries", "memory": "neck"},
            results,
            {"denoising": "decoder"},
            doc="decoder on other queries; denoising: false leaves the denoising queries out",
        ),
        "criterion": criterion_call(criterion),
    }


def wrap(name: str, model: Any, classes: Sequence[str], normalize: str) -> Detector:
    """The detector around a library model of this kind."""
    model.config.auxiliary_loss = True
    stages, ports, criterion = stages_and_ports(model.model, name, normalize)
    losses = {p.removeprefix("losses."): p for p in ports if p.startswith("losses.")}
    return HfDetector(name, tuple(classes), model, ports, stages, calls(criterion), losses, size_divisor=32)


@typed_options("rt-detr")
def build(
    classes: tuple[str, ...],
    *,
    version: Literal[1, 2] = 1,
    weights: str | None = None,
    backbone: str = "resnet18",
    pretrained_backbone: str | None = None,
    widths: tuple[int, ...] = (),
    depths: tuple[int, ...] = (),
    norm: Literal["batch", "frozen"] = "batch",
    d_model: int = 256,
    encoder_width: int | None = None,
    encoder_layers: int = 1,
    decoder_layers: int = 3,
    heads: int = 8,
    ffn: int = 1024,
    expansion: float = 1.0,
    queries: int = 300,
    points: int = 4,
    dropout: float = 0.0,
    denoising: int = 100,
    label_noise: float = 0.5,
    box_noise: float = 1.0,
    attention: Literal["sdpa", "eager"] = "sdpa",
    normalize: Literal["none", "imagenet"] = "none",
) -> Detector:
    """RT-DETR.

    Args:
        classes: Class names in label order.
        version: 2 for RT-DETRv2.
        weights: State-dict file, folder of ``save_pretrained``, or hub name (the last two bring their own architecture).
        backbone: ``resnet18`` ... ``resnet101`` (the library's ResNet-D), or ``timm:<name>``.
        pretrained_backbone: State-dict file, folder or hub name for the backbone alone.
        widths: Channels of the backbone's four stages instead of the usual ones.
        depths: Blocks of the backbone's four stages instead of the usual ones.
        norm: ``frozen`` makes the backbone's BatchNorms constants, as published (for pretrained backbones).
        d_model: Width of the decoder.
        encoder_width: Width of the hybrid encoder; d_model where not given.
        encoder_layers: Attention layers on the coarsest map.
        decoder_layers: Decoder layers.
        heads: Attention heads.
        ffn: Hidden width of the feed-forward layers.
        expansion: Width factor inside the fusion blocks (0.5 in the published R18 model).
        queries: Number of queries; at most the number of encoder tokens.
        points: Sampled points per head and level.
        dropout: Dropout rate.
        denoising: Denoising queries; 0 turns them off.
        label_noise: Share of wrong labels among them (half of it is drawn).
        box_noise: Size of their box shifts.
        attention: ``eager`` offers the attention ports.
        normalize: ``none`` for models trained on values in 0..1, as the published ones are.
    """
    import transformers

    body = backbone_config(backbone, widths, depths, STAGES, "rt_detr_resnet")
    channels, encoder = channels_of(body, STAGES), encoder_width or d_model
    settings = {
        "backbone_config": body,
        "encoder_in_channels": channels,
        "freeze_backbone_batch_norms": norm == "frozen",
        "encoder_hidden_dim": encoder,
        "encoder_layers": encoder_layers,
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": ffn,
        "hidden_expansion": expansion,
        "decoder_in_channels": [encoder] * len(channels),
        "d_model": d_model,
        "decoder_layers": decoder_layers,
        "decoder_attention_heads": heads,
        "decoder_ffn_dim": ffn,
        "decoder_n_points": points,
        "num_queries": queries,
        "dropout": dropout,
        "attention_dropout": dropout,
        "num_denoising": denoising,
        "label_noise_ratio": label_noise,
        "box_noise_scale": box_noise,
    }
    model_class = transformers.RTDetrForObjectDetection if version == 1 else transformers.RTDetrV2ForObjectDetection
    model, names = build_hybrid(model_class, settings, classes, weights, attention, pretrained_backbone)
    return wrap("rt-detr", model, names, normalize)


DETECTORS.add(
    "rt-detr",
    family(
        build,
        "transformer",
        "transformers",
        "Apache-2.0",
        "RT-DETR and RT-DETRv2 with denoising (images fill the canvas)",
    ),
)
