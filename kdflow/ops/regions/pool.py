"""Features of boxes, as blocks."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

from kdflow.errors import UsageError
from kdflow.functional.pooling import align_boxes, canonical_level
from kdflow.kinds import ROW_BLOCKS, Boxes, Pyramid, Strides
from kdflow.operation import op

Positive = Annotated[int, Field(gt=0)]


def _infer(features: Pyramid, boxes: Boxes, bins: int = 7, **_: Any) -> Any:
    rows = sum(len(b) for b in boxes)
    return features[0].new_zeros((rows, features[0].shape[1], bins, bins))


@op("regions.pool", gives=ROW_BLOCKS, defaults={"boxes": "targets.boxes"}, infer=_infer)
def pool(
    features: Pyramid,
    boxes: Boxes,
    bins: Positive = 7,
    sampling: Annotated[int, Field(ge=0)] = 2,
    canonical_size: Annotated[float, Field(gt=0)] = 224.0,
    canonical_level: Annotated[int, Field(ge=0)] = 4,
    border: Annotated[float, Field(ge=0)] = 0.0,
    aligned: bool = True,
    strides: Strides = (),
) -> Any:
    """RoIAlign blocks (N, C, bins, bins) of the boxes of all images, each read from one level chosen by its size.

    The level has stride ``2^k``, ``k = floor(canonical_level + log2(sqrt(area) / canonical_size))``, within the levels
    that exist. Gradient flows to the maps, none to the boxes. No boxes give no rows.

    Args:
        features: Maps per level.
        boxes: Per image (n, 4) xyxy pixels of the padded input.
        bins: Cells per side.
        sampling: Sampling points per side of a cell; 0 adapts to the box.
        canonical_size: Side of a box that belongs to the canonical level, pixels.
        canonical_level: log2 of that level's stride.
        border: Added to width and height before the level is chosen (1: both border pixels belong to the box).
        aligned: Half-pixel-correct sampling; False is the older form.
        strides: Filled in by the compiler.
    """
    if len(strides) != len(features):
        raise UsageError(f"regions.pool needs the stride of each of the {len(features)} levels, got {list(strides)}")
    own = [b.detach() for b in boxes]
    levels = _levels(own, strides, canonical_size, canonical_level, border)
    return align_boxes(features, own, levels, strides, bins, sampling, aligned)


def _levels(boxes: Boxes, strides: Strides, size: float, level: int, border: float) -> torch.Tensor:
    return canonical_level(torch.cat(list(boxes)), strides, size, level, border=border)
