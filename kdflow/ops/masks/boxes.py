"""Where the objects are, on the grid of each level."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kdflow.errors import UsageError
from kdflow.functional.box_weights import paint_bells
from kdflow.functional.masks import level_of_boxes, paint, resize_mask
from kdflow.kinds import Boxes, Canvas, Masks, Pyramid, Strides
from kdflow.operation import op

Size = tuple[int, int]


@op("mask.boxes", defaults={"boxes": "targets.boxes"}, no_grad=True)
def boxes_mask(
    like: Pyramid,
    boxes: Boxes,
    assign: Literal["by_area", "every", "finest"] = "by_area",
    base: Annotated[float, Field(gt=0)] = 56.0,
    stride: Annotated[int, Field(gt=0)] | None = None,
    spread: Annotated[float, Field(gt=0)] | None = None,
    strides: Strides = (),
    canvas: Canvas = (0, 0),
) -> Masks:
    """1 inside boxes and 0 elsewhere, (B, 1, H, W) per level; an image without boxes gives zeros.

    A box covers the half-open range of cells between its corners divided by the stride and cut to integers; if that
    range is empty in one direction, it covers the one cell at its first corner. Source: DeFeat, ``anchor_head.py``; with
    ``spread`` TARD (arXiv 2006.13108), as the same file builds it.

    Args:
        like: Maps whose grids are used.
        boxes: Per image (n, 4) xyxy pixels of the padded input.
        assign: ``by_area`` paints a box only at its level ``floor(log2(sqrt(w*h) / base))``, ``every`` at all levels,
            ``finest`` paints one mask of all boxes on the finest grid and resizes it to the others by the nearest cell.
        base: Side of boxes that belong to the finest level, pixels (``by_area``).
        stride: Pixels per cell of the one mask (``finest``); none takes the finest level's.
        spread: A bell over each box instead of 1, the larger value where boxes overlap: twice its variance over the squared half
            box. Not with ``finest``.
        strides: Filled in by the compiler.
        canvas: Filled in by the compiler.
    """
    if len(strides) != len(like):
        raise UsageError(f"mask.boxes needs the stride of each of the {len(like)} levels, got {list(strides)}")
    sizes: list[Size] = [(level.shape[-2], level.shape[-1]) for level in like]
    if assign == "finest":
        if spread is not None:
            raise UsageError("mask.boxes: a spread is for the boxes of a level; write assign: every or by_area")
        step, size = _finest(strides, sizes, stride, canvas)
        mask = paint(boxes, step, size)
        return [resize_mask(mask, size) for size in sizes]
    levels = [level_of_boxes(b, len(like), base) for b in boxes] if assign == "by_area" else None
    masks = []
    for i, (step, size) in enumerate(zip(strides, sizes, strict=True)):
        chosen = None if levels is None else [level == i for level in levels]
        masks.append(paint(boxes, step, size, chosen) if spread is None else paint_bells(boxes, step, size, spread, chosen))
    return masks


def _finest(strides: Strides, sizes: list[Size], stride: int | None, canvas: Canvas) -> tuple[int, Size]:
    """Stride and size of the grid of the one mask."""
    if stride is None or stride == strides[0]:
        return strides[0], sizes[0]
    height, width = canvas if any(canvas) else (sizes[0][0] * strides[0], sizes[0][1] * strides[0])
    return stride, (-(-height // stride), -(-width // stride))
