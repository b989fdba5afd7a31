"""Options of LW-DETR and RF-DETR, and the vision transformer that they describe."""

from __future__ import annotations

from typing import Any

from pydantic import NonNegativeInt, ValidationInfo, field_validator

from kdflow.detectors.hf_options import DecoderOptions
from kdflow.options import again, option


class GroupOptions(DecoderOptions):
    """Options of both families."""

    patch: int = option(16, "Side of a patch in pixels.", gt=0)
    windows: int = option(
        2, "Windows along each side of the image; canvas sides are multiples of patch * windows.", gt=0
    )
    grid: int = option(24, "Patches along a side of the learned position grid, resampled to the image's.", gt=0)
    body_width: int = option(384, "Width of the vision transformer.", gt=0)
    body_heads: int = option(6, "Its attention heads.", gt=0)
    body_layers: int = option(12, "Its layers.", gt=0)
    outputs: tuple[NonNegativeInt, ...] = option((3, 6, 9, 12), "Layers behind which a map is taken.")
    decoder_layers: int = again(DecoderOptions, "decoder_layers", 3)
    heads: int = option(8, "Heads of the decoder's self-attention.", "decoder_self_attention_heads", gt=0)
    cross_heads: int = option(16, "Heads of its cross-attention.", "decoder_cross_attention_heads", gt=0)
    ffn: int = again(DecoderOptions, "ffn", 2048, "decoder_ffn_dim")
    points: int = option(2, "Sampled points per head and level.", "decoder_n_points", gt=0)
    groups: int = option(13, "Query groups in training; evaluation uses the first.", "group_detr", gt=0)
    expansion: float = option(0.5, "Width factor inside the projector.", "hidden_expansion", gt=0)
    queries: int = option(300, "Queries of a group; at most the number of patches.", "num_queries", gt=0)
    dropout: float = again(DecoderOptions, "dropout", 0.0)
    auxiliary_loss: bool = option(True, "Losses on every decoder layer, not on the last alone.")

    @field_validator("outputs")
    @classmethod
    def _rising(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        layers = info.data.get("body_layers", max(value, default=0))
        if not value or list(value) != sorted({*value}) or not 1 <= value[0] <= value[-1] <= layers:
            raise ValueError(f"give rising numbers of layers, of 1 to {layers}")
        return value


class RfDetrOptions(GroupOptions):
    """Options of RF-DETR."""

    name = "rf-detr"


class LwDetrOptions(GroupOptions):
    """Options of LW-DETR."""

    name = "lw-detr"
    windows: int = again(GroupOptions, "windows", 4)
    grid: int = again(GroupOptions, "grid", 14)
    body_width: int = again(GroupOptions, "body_width", 192)
    body_heads: int = again(GroupOptions, "body_heads", 12)
    body_layers: int = again(GroupOptions, "body_layers", 10)
    outputs: tuple[NonNegativeInt, ...] = option((2, 4, 5, 9), "Layers behind which a map is taken.")
    windowed: tuple[NonNegativeInt, ...] = option(
        (0, 1, 3, 6, 7, 9), "Layers, counted from 0, that look into windows; the others see the whole image."
    )
    scales: tuple[float, ...] = option(
        (1.0,), "Sizes of the projected maps in patches: of 0.5, 1 and 2.", "projector_scale_factors"
    )

    @field_validator("scales")
    @classmethod
    def _known(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not {*value} <= {0.5, 1.0, 2.0}:
            raise ValueError("give one or more of 0.5, 1 and 2")
        return value


def body_config(options: GroupOptions) -> Any:
    """Configuration of the vision transformer."""
    from transformers import AutoConfig

    common = {
        "patch_size": options.patch,
        "hidden_size": options.body_width,
        "num_attention_heads": options.body_heads,
        "num_hidden_layers": options.body_layers,
        "out_indices": list(options.outputs),
    }
    side = options.grid * options.patch
    if isinstance(options, LwDetrOptions):
        own = {
            "pretrain_image_size": side,
            "image_size": options.patch * options.windows**3,  # read by a check alone: the image may have any size
            "num_windows": options.windows**2,
            "window_block_indices": list(options.windowed),
        }
        return AutoConfig.for_model("lw_detr_vit", **common, **own)
    return AutoConfig.for_model("rf_detr_dinov2", **common, image_size=side, num_windows=options.windows)
