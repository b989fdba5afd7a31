"""DEIMv2 of the transformers library, in its sizes with a convolutional backbone: D-FINE with another encoder and criterion.

Query sets, layers in evaluation and the pairing of the auxiliary losses are D-FINE's. The ``hybrid`` encoder fuses the maps that
the backbone hands on; the ``lite`` one reads a single map and makes the next coarser one itself.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

from pydantic import PositiveInt, ValidationInfo, field_validator
from torch import Tensor

from kdflow.detectors import rt_stages as rt
from kdflow.detectors.d_fine import DFineOptions, decoder_extras, layer_losses, untrained
from kdflow.detectors.d_fine_stages import EDGE_TERMS, Decoder, DenoisingLoss
from kdflow.detectors.deimv2_union import TERMS, Unite
from kdflow.detectors.hf_build import transformers_family
from kdflow.detectors.hf_loss import SetLoss
from kdflow.detectors.hf_stages import body_of, body_stages, loss_stages, strides_of
from kdflow.detectors.rt_detr import (
    built,
    denoising_losses,
    encoder_losses,
    encoder_stages,
    focal_of,
    hybrid_detector,
    query_stages,
)
from kdflow.detectors.rt_loss import PairLoss
from kdflow.errors import UsageError
from kdflow.kinds import ANY
from kdflow.options import again, option
from kdflow.ports import DETECTORS, Detector, Port, Stage


class Deimv2Options(DFineOptions):
    """Options of DEIMv2; the defaults are those of the published N."""

    name = "deimv2"
    backbone: str = again(DFineOptions, "backbone", "hgnetv2-b0")
    outputs: tuple[PositiveInt, ...] = option(
        (3, 4), "Stages of the backbone, 1 (stride 4) to 4, whose maps are read: one for the lite encoder."
    )
    encoder: Literal["hybrid", "lite"] = option(
        "hybrid", "``lite`` makes the coarser of its two maps itself, without attention.", "encoder_type"
    )
    encoder_layers: int = option(
        1, "Attention layers on the coarsest map: 1, or 0 for none.", "encoder_layers", ge=0, le=1
    )
    d_model: int = again(DFineOptions, "d_model", 128)
    ffn: int = again(DFineOptions, "ffn", 512)
    expansion: float = again(DFineOptions, "expansion", 0.34)
    fusion_depth: float = again(DFineOptions, "fusion_depth", 0.5)
    points: PositiveInt | tuple[PositiveInt, ...] = option(6, "Sampled points per head, of every level or of each.")  # type: ignore[assignment]
    share_boxes: bool = option(False, "One box head for all decoder layers, as in the lite sizes.", "share_bbox_head")
    gateway: bool = option(True, "Decoder layers weigh what attention adds by gates.", "use_gateway")
    gamma: float = option(1.5, "Exponent of the matching-aware loss.", "focal_loss_gamma", ge=0)
    dense_matching: bool = option(
        True, "Boxes are compared on the pairs of all layers, not on each layer's own.", "use_dense_one_to_one"
    )

    @field_validator("encoder")
    @classmethod
    def _single(cls, value: str, info: ValidationInfo) -> str:
        if value == "lite" and len(info.data.get("outputs", ())) != 1:
            raise ValueError("the lite encoder reads one stage, so give one number as outputs")
        return value

    @field_validator("outputs")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or list(value) != list(range(value[0], value[0] + len(value))) or value[-1] > 4:
            raise ValueError("give neighbouring stages of 1 to 4, the finest first")
        return value


def settings(options: Deimv2Options) -> dict[str, Any]:
    """Keywords of the library's configuration that follow from several options."""
    strides, width = [2 ** (stage + 1) for stage in options.outputs], options.encoder_width or options.d_model
    lite = options.encoder == "lite"
    levels = 2 if lite else len(strides)
    points = options.points
    if isinstance(points, tuple) and len(points) != levels:
        raise UsageError(f"points: {levels} maps reach the decoder, so give one number or {levels}")
    return {
        "feat_strides": strides,
        "encode_proj_layers": [len(strides) - 1],
        "num_feature_levels": levels,
        "decoder_in_channels": [width] * levels,
        "decoder_activation_function": "silu",
        "decoder_n_points": points if isinstance(points, int) else list(points),
        **({"encoder_layers": 0} if lite else {}),
    }


class LiteEncoder(rt.Encoder):
    """The encoder that makes a second map of the one it reads."""

    def infer(self, maps: list[Tensor]) -> dict[str, Any]:
        """A map of the same size and one of half of it."""
        encoder: Any = self.encoder
        (batch, _, height, width), channels = maps[0].shape, encoder.config.encoder_hidden_dim
        sizes = (height, width), (-(-height // 2), -(-width // 2))
        return {"maps": [maps[0].new_empty(batch, channels, *size) for size in sizes]}


def feature_stages(core: Any, options: Deimv2Options) -> dict[str, Stage]:
    """From images to decoder tokens; ``neck`` and ``encoder.memory`` are the same maps."""
    config, body = core.config, core.config.backbone_config
    channels = tuple(body_of(core).intermediate_channel_sizes)
    if body.model_type == "timm_backbone":
        strides = strides_of(len(channels))
    else:
        strides = tuple(2 ** (int(name.removeprefix("stage")) + 1) for name in body.out_features)
    lite = config.encoder_type == "lite"
    encoder = (LiteEncoder if lite else rt.Encoder)(core.encoder)
    inputs = channels if lite else (config.encoder_hidden_dim,) * len(channels)
    memory = (*strides, 2 * strides[-1]) if lite else strides
    return {
        **body_stages(core, options, channels, strides, refuse_padding=options.title()),
        **encoder_stages(core, encoder, core.conv_encoder.encoder_input_proj, inputs, strides, memory),
    }


def set_losses(loss: SetLoss, config: Any, decoder: Any) -> dict[str, Stage]:
    """Targets, matching of every layer, the union of all pairs, and the criterion of the decoder layers and of the encoder."""
    usual, layers, chosen = loss_stages(loss, config.decoder_layers), layer_losses(loss, config), encoder_losses(loss, config)
    matching = {"match.first": layers["match.first"], "match.proposals": chosen["match.proposals"]}
    pairs = {"pairs": "match.indices", "first": "match.first", "proposals": "match.proposals"}
    union = Port("match.union", ANY, doc="pairs of all layers, one per query, on which boxes are compared")
    joined = {"match.union": Stage(Unite(decoder), pairs, {"indices": union})} if config.use_dense_one_to_one else {}

    def on_union(stage: Stage) -> Stage:
        return replace(stage, reads={**stage.reads, **({"union": union.name} if joined else {})})

    return {
        "targets": usual["targets"],
        "match": usual["match"],
        **matching,
        **joined,
        "criterion": on_union(usual["criterion"]),
        "criterion.layers": on_union(layers["criterion.layers"]),
        "criterion.proposals": on_union(chosen["criterion.proposals"]),
    }


def make(classes: tuple[str, ...], options: Deimv2Options) -> Detector:
    """DEIMv2."""
    from transformers import Deimv2ForObjectDetection

    model, names = built(Deimv2ForObjectDetection, options, classes, options.outputs, **settings(options))
    core, config = model.model, model.config
    decoder = Decoder(core.decoder, options.attention == "eager")
    loss = SetLoss(partial(PairLoss, config, "mal"), TERMS, clamp=True, focal=focal_of(config))
    noise = DenoisingLoss(loss, config.decoder_layers, EDGE_TERMS)
    stages = {**feature_stages(core, options), **query_stages(core, options, decoder, **decoder_extras(config))}
    matching = set_losses(loss, config, core.decoder)
    losses = denoising_losses(noise, config)
    return hybrid_detector(options, names, model, stages, loss, losses, matching=matching, optional=untrained(core))


DOC = "DEIMv2 with convolutional backbones: D-FINE with one matching for all layers"
TINY: dict[str, Any] = {"backbone": "hgnetv2-b0", "outputs": (2, 3, 4), "denoising": 6, "bins": 8, "quality_width": 16}
DETECTORS.add(Deimv2Options.name, transformers_family(make, Deimv2Options, DOC, ragged=False, **TINY))
