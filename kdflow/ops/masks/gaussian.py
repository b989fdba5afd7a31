"""Objects that fade from their middle to their border."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.functional.box_weights import cover, cut_to_cells
from kdflow.functional.masks import level_of_boxes
from kdflow.kinds import Boxes, Masks, Pyramid, Strides
from kdflow.operation import op


@op("mask.gaussian", defaults={"boxes": "targets.boxes"}, no_grad=True)
def gaussian(
    like: Pyramid,
    boxes: Boxes,
    variance: Annotated[float, Field(gt=0)] = 2.0,
    base: Annotated[float, Field(gt=0)] = 56.0,
    strides: Strides = (),
) -> Masks:
    """A Gaussian inside each box and 0 elsewhere, (B, 1, H, W) per level; an image without boxes gives zeros.

    Corners are divided by the stride and cut to integers: the box has w columns from x1 on and h rows from y1 on, and its
    cells hold ``exp(-(x - x1 - w/2)^2 / (variance (w/2)^2) - (y - y1 - h/2)^2 / (variance (h/2)^2))``. The middle is cell
    w/2 counted from the first, so an even box is brighter at its end than at its start. A box without columns or rows is
    one cell of value 1. The largest value wins where boxes overlap. Source: TARD as in DeFeat's ``anchor_head.py``.

    Args:
        like: Maps whose grids are used.
        boxes: Per image (n, 4) xyxy pixels of the padded input; each is painted at its level
            ``floor(log2(sqrt(w*h) / base))`` only.
        variance: Twice the squared deviation, in half boxes.
        base: Side of boxes that belong to the finest level, pixels.
        strides: Filled in by the compiler.
    """
    if len(strides) != len(like):
        raise UsageError(f"mask.gaussian needs the stride of each of the {len(like)} levels, got {list(strides)}")
    levels = [level_of_boxes(own, len(like), base) for own in boxes]
    return [
        torch.stack([
            _paint(own, level == index, stride, (one.shape[-2], one.shape[-1]), variance)
            for own, level in zip(boxes, levels, strict=True)
        ])[:, None]
        for index, (one, stride) in enumerate(zip(like, strides, strict=True))
    ]


def _paint(boxes: Tensor, shown: Tensor, stride: int, size: tuple[int, int], variance: float) -> Tensor:
    """(n, 4) boxes, of which those ``shown`` (n,) are painted -> (H, W)."""
    if len(boxes) == 0:
        return boxes.new_zeros(size)
    found = cut_to_cells(boxes, stride, size)
    cells = (boxes / stride).trunc()
    horizontal = _bell(cells[:, 0], cells[:, 2], size[1], variance)
    vertical = _bell(cells[:, 1], cells[:, 3], size[0], variance)
    values = (-vertical[:, :, None] - horizontal[:, None, :]).exp()
    values = torch.where(found.collapsed[:, None, None], 1.0, values)
    return torch.where(cover(found, size) & shown[:, None, None], values, 0.0).amax(0)


def _bell(first: Tensor, last: Tensor, length: int, variance: float) -> Tensor:
    """Squared distance of every column from the middle over ``variance`` squared half widths: (n, length)."""
    half = ((last - first) / 2).clamp(min=0.5)[:, None]
    return (torch.arange(length, device=first.device) - first[:, None] - half).square() / (variance * half.square())
