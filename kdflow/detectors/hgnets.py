"""The library's HGNetV2 backbones in the sizes that real-time transformers use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdflow.errors import UsageError


class Size(NamedTuple):
    """Per stage: channels inside the blocks, channels handed on, blocks, kernel sides."""

    inner: tuple[int, ...]
    outer: tuple[int, ...]
    blocks: tuple[int, ...]
    kernels: tuple[int, ...]


HGNETS: Mapping[str, Size] = {
    "hgnetv2-b0": Size((16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1), (3, 3, 5, 5)),
    "hgnetv2-pico": Size((16, 32, 64), (64, 256, 512), (1, 1, 2), (3, 3, 5)),
    "hgnetv2-femto": Size((16, 32, 64), (64, 256, 512), (1, 1, 1), (3, 3, 5)),
    "hgnetv2-atto": Size((16, 32, 64), (64, 256, 256), (1, 1, 1), (3, 3, 3)),
}
"""B0 has four stages, to stride 32; the others have three, to stride 16."""
STEM = (3, 16, 16)


def hgnet_config(name: str, widths: Sequence[int], depths: Sequence[int], stages: Sequence[int]) -> Any:
    """Configuration of one of :data:`HGNETS` that hands on the maps of ``stages`` (1 has stride 4).

    Raises:
        UsageError: It has fewer stages than are asked for, or than there are ``widths`` or ``depths``.
    """
    from transformers import AutoConfig

    size = HGNETS[name]
    number = len(size.outer)
    wanted = max(*stages, len(widths), len(depths))
    if wanted > number:
        raise UsageError(
            f'"{name}" has {number} stages, so neither maps of stage {wanted} nor {wanted} widths or depths'
        )
    outer = tuple(widths) or size.outer
    inner = tuple(max(4, own * new // old) for own, new, old in zip(size.inner, outer, size.outer))
    blocks = tuple(depths) or size.blocks
    return AutoConfig.for_model(
        "hgnet_v2",
        out_features=[f"stage{stage}" for stage in stages],
        hidden_sizes=list(outer),
        depths=list(blocks),
        stem_channels=list(STEM),
        stage_in_channels=[STEM[-1], *outer[:-1]],
        stage_mid_channels=list(inner),
        stage_out_channels=list(outer),
        stage_num_blocks=list(blocks),
        stage_downsample=[stage > 0 for stage in range(number)],
        stage_downsample_strides=[2] * number,
        stage_light_block=[stage > 1 for stage in range(number)],
        stage_kernel_size=list(size.kernels),
        stage_numb_of_layers=[3] * number,
        use_learnable_affine_block=True,
    )
