"""RT-DETR and RT-DETRv2 of the transformers library (``RTDetrForObjectDetection``, ``RTDetrV2ForObjectDetection``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from torch import nn

from kdflow.detectors import rt_stages as rt
from kdflow.detectors.hf_build import (
    backbone_config,
    build_model,
    channels_of,
    transformers_detector,
    transformers_family,
)
from kdflow.detectors.hf_loss import SetLoss
from kdflow.detectors.hf_options import HybridOptions
from kdflow.detectors.hf_parts import Postprocess, Projection, draws
from kdflow.detectors.hf_stages import (
    GROUND_TRUTH,
    TOKEN_PORT,
    decoder_results,
    head_nodes,
    image_stages,
    prediction_ports,
    proposal_ports,
    proposal_stages,
    state_ports,
)
from kdflow.detectors.rt_loss import PairLoss
from kdflow.kinds import ANY, CELLS, MAP
from kdflow.options import option
from kdflow.ports import CLASS_SCORES, DETECTORS, Call, Detector, Port, Stage

TERMS = ("loss_vfl", "loss_bbox", "loss_giou")
STAGES = (2, 3, 4)


class RTDetrOptions(HybridOptions):
    """Options of RT-DETR."""

    name = "rt-detr"
    version: Literal[1, 2] = option(1, "2 for RT-DETRv2.")


def built(
    model_class: Any, options: HybridOptions, classes: tuple[str, ...], stages: Sequence[int] = STAGES, **further: Any
) -> tuple[Any, tuple[str, ...]]:
    """A model that reads some stages of a backbone, and its class names; ``further`` are keywords of its configuration."""
    body = backbone_config(options, stages, "rt_detr_resnet")
    channels, width = channels_of(body, stages), options.encoder_width or options.d_model
    widths = {
        "encoder_in_channels": channels,
        "decoder_in_channels": [width] * len(channels),
        "encoder_hidden_dim": width,
    }
    constant = options.norm == "frozen"
    settings = {"freeze_backbone_batch_norms": constant, **widths, **further}
    model, names = build_model(model_class, options, classes, body, **settings)
    model.config.auxiliary_loss = True
    return model, names


def feature_stages(core: Any, options: HybridOptions) -> dict[str, Stage]:
    """From images to decoder tokens."""
    strides, width = tuple(core.config.feat_strides), core.config.encoder_hidden_dim
    return {
        **image_stages(core, options, refuse_padding=options.title()),
        **encoder_stages(core, rt.Encoder(core.encoder), core.encoder_input_proj, [width] * len(strides), strides, strides),
    }


def encoder_stages(
    core: Any,
    encoder: rt.Encoder,
    projections: nn.ModuleList,
    channels: Sequence[int],
    strides: tuple[int, ...],
    memory: tuple[int, ...],
) -> dict[str, Stage]:
    """From the backbone's maps to decoder tokens; ``neck`` and ``encoder.memory`` are the same maps.

    Args:
        core: The library's model without heads.
        encoder: Its encoder.
        projections: From the backbone's maps to those that the encoder reads.
        channels: Of the latter.
        strides: Of the latter.
        memory: Strides of the encoder's own maps.
    """
    inputs = Port("encoder.inputs", channels=tuple(channels), strides=strides)
    maps = tuple(
        Port(name, channels=core.config.encoder_hidden_dim, strides=memory) for name in ("neck", "encoder.memory")
    )
    grid = Port("decoder.grid", ANY, doc="level sizes of these tokens")
    encoded: dict[str, Port | tuple[Port, ...]] = {"maps": maps}
    if encoder.attends:
        doc = "coarsest map behind the attention, before levels are fused"
        encoded["attended"] = Port("encoder.attended", MAP, "transformer/feature", doc=doc)
    return {
        "projection": Stage(Projection(projections), {"maps": "backbone"}, {"maps": inputs}, dense=True),
        "encoder": Stage(encoder, {"maps": "encoder.inputs"}, encoded, stochastic=draws(core.config), dense_in_eval=True),
        "tokens": Stage(rt.Tokens(core.decoder_input_proj), {"maps": "neck"}, {"tokens": TOKEN_PORT, "grid": grid}),
    }


def query_stages(core: Any, options: HybridOptions, decoder: rt.Decoder, **further: Port) -> dict[str, Stage]:
    """Denoising queries, query selection, decoder. Only the first draws random numbers, as in the library's forward.

    Args:
        core: The library's model without heads.
        options: The family's.
        decoder: The decoder's stage.
        further: What it gives beside the usual.
    """
    config, tokens = core.config, {"tokens": "decoder.tokens", "grid": "decoder.grid"}
    scores = Port(
        "encoder.all_logits", CELLS, form="sigmoid", classes=CLASS_SCORES, doc="class scores of every encoder token"
    )
    noise = Port("denoising.noise", ANY, doc="denoising queries of this batch")
    denoised = Port("decoder.denoised", ANY, doc="the same of the denoising queries, for the detector's own losses")
    return {
        "denoising": Stage(rt.Denoising(core), GROUND_TRUTH, {"noise": noise}, stochastic=config.num_denoising > 0),
        "selection": Stage(
            rt.Selection(core),
            tokens,
            {"queries": Port("decoder.queries"), "all_logits": scores, **proposal_ports("the chosen tokens")},
        ),
        "decoder": Stage(
            decoder,
            {"queries": "decoder.queries", "noise": "denoising.noise", **tokens},
            {
                **state_ports(config, "cxcywh", options.attention == "eager"),
                **prediction_ports(config),
                "denoised": denoised,
                **further,
            },
            stochastic=draws(config),
            options={"denoising": True},
            nodes=head_nodes(core.decoder),
        ),
    }


def encoder_losses(loss: SetLoss, config: Any) -> dict[str, Stage]:
    """Loss of the chosen encoder tokens, under the names that the library gives to one more auxiliary layer."""
    return proposal_stages(loss, f"_aux_{config.decoder_layers - 1}", "chosen encoder tokens")


def denoising_losses(loss: rt.DenoisingLoss, config: Any) -> dict[str, Stage]:
    """Loss of the denoising queries, where there are any."""
    reads = {"noise": "denoising.noise", "denoised": "decoder.denoised", **GROUND_TRUTH}
    return {"criterion.denoising": Stage(loss, reads, loss.ports())} if config.num_denoising > 0 else {}


def calls(stages: Mapping[str, Stage]) -> dict[str, Call]:
    """What a method may run again."""
    results, option, queries = decoder_results(stages), {"denoising": "decoder"}, {"queries": "decoder.queries"}
    return {
        "encoder": Call({"features": "encoder.inputs"}, {"memory": "neck"}, doc="hybrid encoder on other maps"),
        "transformer": Call(
            {"features": "neck", **queries},
            results,
            option,
            doc="query selection and decoder on other encoder maps, or the decoder on other queries",
        ),
        "decoder": Call(
            {**queries, "memory": "neck"},
            results,
            option,
            doc="decoder on other queries; denoising: false leaves the denoising queries out",
        ),
    }


def focal_of(config: Any) -> tuple[float, float] | None:
    """Alpha and gamma of the matcher's class cost, if it is focal."""
    return (config.matcher_alpha, config.matcher_gamma) if config.use_focal_loss else None


def hybrid_detector(
    options: HybridOptions,
    names: tuple[str, ...],
    model: Any,
    stages: Mapping[str, Stage],
    loss: SetLoss,
    losses: Mapping[str, Stage],
    **further: Any,
) -> Detector:
    """The detector around a model with a hybrid encoder; arguments as of :func:`transformers_detector`."""
    postprocess = Postprocess("RTDetrImageProcessor", use_focal_loss=model.config.use_focal_loss)
    return transformers_detector(
        options, names, model, stages, loss, postprocess, calls, losses=losses, size_divisor=32, **further
    )


def make(classes: tuple[str, ...], options: RTDetrOptions) -> Detector:
    """RT-DETR."""
    import transformers

    versions = {1: transformers.RTDetrForObjectDetection, 2: transformers.RTDetrV2ForObjectDetection}
    model, names = built(versions[options.version], options, classes)
    core, config = model.model, model.config
    decoder = rt.Decoder(core.decoder, options.attention == "eager")
    loss = SetLoss(partial(PairLoss, config, "vfl"), TERMS, auxiliary="_aux_{}", focal=focal_of(config))
    noise = rt.DenoisingLoss(loss, config.decoder_layers)
    stages = {**feature_stages(core, options), **query_stages(core, options, decoder)}
    losses = {**encoder_losses(loss, config), **denoising_losses(noise, config)}
    return hybrid_detector(options, names, model, stages, loss, losses)


DOC = "RT-DETR and RT-DETRv2 with denoising (images fill the canvas)"
DETECTORS.add(RTDetrOptions.name, transformers_family(make, RTDetrOptions, DOC, ragged=False, denoising=6))
