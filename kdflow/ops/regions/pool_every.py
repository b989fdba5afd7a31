"""Features of boxes on all levels, as blocks."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.functional.pooling import align_boxes
from kdflow.kinds import LEVEL_BLOCKS, Boxes, Pyramid, Sizes, Strides
from kdflow.operation import op

Positive = Annotated[int, Field(gt=0)]


def _infer(features: Pyramid, boxes: Boxes, bins: int = 7, **_: Any) -> Any:
    rows = sum(len(b) for b in boxes)
    return [level.new_zeros((rows, level.shape[1], bins, bins)) for level in features]


@op(
    "regions.pool_every",
    gives=LEVEL_BLOCKS,
    defaults={"boxes": "targets.boxes"},
    infer=_infer,
)
def pool_every(
    features: Pyramid,
    boxes: Boxes,
    bins: Positive = 7,
    sampling: Annotated[int, Field(ge=0)] = 2,
    aligned: bool = True,
    image_sizes: Sizes | None = None,
    outward: bool = False,
    strides: Strides = (),
) -> Any:
    """RoIAlign blocks of the boxes of all images, every box on every level: per level (N, C, bins, bins).

    ``regions.pool`` reads each box from one level instead. Gradient flows to the maps, none to the boxes.

    Args:
        features: Maps per level.
        boxes: Per image (n, 4) xyxy pixels of the padded input.
        bins: Cells per side.
        sampling: Sampling points per side of a cell; 0 adapts to the box.
        aligned: Half-pixel-correct sampling; False is the older form.
        image_sizes: (height, width) inside the padding. Where given, corners are multiplied by map size over this size, which
            stretches the boxes of padded images (FGD, DetKDS). None divides by the stride.
        outward: Whether boxes grow to whole cells: first corners are rounded down, last corners up.
        strides: Filled in by the compiler.
    """
    if len(strides) != len(features):
        raise UsageError(
            f"regions.pool_every needs the stride of each of the {len(features)} levels, got {list(strides)}"
        )
    own = [b.detach() for b in boxes]
    first = torch.zeros(sum(len(b) for b in own), dtype=torch.long, device=features[0].device)
    blocks = []
    for level, stride in zip(features, strides, strict=True):
        cells = [_in_cells(b, level, stride, image_sizes[i] if image_sizes else None, outward) for i, b in enumerate(own)]
        blocks.append(align_boxes([level], cells, first, [1], bins, sampling, aligned))
    return blocks


def _in_cells(boxes: Tensor, level: Tensor, stride: int, image: tuple[int, int] | None, outward: bool) -> Tensor:
    """Boxes in units of the cells of a map."""
    if image is None:
        scaled = boxes / stride
    else:
        scaled = boxes * boxes.new_tensor([level.shape[-1] / image[1], level.shape[-2] / image[0]]).repeat(2)
    return torch.cat([scaled[:, :2].floor(), scaled[:, 2:].ceil()], 1) if outward else scaled
