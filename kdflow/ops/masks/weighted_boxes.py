"""Objects that count with a weight each, on the grid of every level."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.functional.box_weights import (
    CellBoxes,
    cover,
    cut_to_cells,
    overlapped_cells,
    paint_in_order,
    paint_largest,
    touched_cells,
)
from kdflow.functional.masks import level_of_boxes
from kdflow.kinds import Boxes, Masks, Pyramid, Sizes, Strides, of_axes
from kdflow.operation import op

LevelRows = Annotated[Any, of_axes(("n",), "levels")]


@op("mask.weighted_boxes", defaults={"boxes": "targets.boxes"}, no_grad=True)
def weighted_boxes(
    like: Pyramid,
    boxes: Boxes,
    weights: LevelRows | None = None,
    image_sizes: Sizes | None = None,
    assign: Literal["by_area", "every"] = "every",
    cells: Literal["cut", "touched", "overlapped"] = "touched",
    overlap: Literal["largest", "last"] = "largest",
    base: Annotated[float, Field(gt=0)] = 56.0,
    strides: Strides = (),
) -> Masks:
    """The weight of a box inside it and 0 elsewhere, (B, 1, H, W) per level; an image without boxes gives zeros.

    Sources: FGD ``fgd.py`` (inverse area, touched cells, largest, image sizes) and ODGK (weights, cut cells, by area,
    last).

    Args:
        like: Maps whose grids are used.
        boxes: Per image (n, 4) xyxy pixels of the padded input.
        weights: Per level (N,), a weight of every box at that level; none takes 1 over the number of its cells.
        image_sizes: (height, width) inside the padding. Where given, corners are multiplied by map size over this size,
            which stretches the boxes of padded images (as FGD's published numbers have it; for ``touched`` only). None
            divides by the stride.
        assign: ``every`` paints a box on all levels, ``by_area`` only at ``floor(log2(sqrt(w*h) / base))``.
        cells: ``touched`` covers ``floor`` of the first to ``ceil`` of the last corner, both included; ``cut`` cuts
            corners to integers and excludes the last (a box without extent gets one cell); ``overlapped`` covers the cells
            that the box overlaps inside the map, at least one.
        overlap: ``largest`` weight wins, or the ``last`` box (one without extent never lowers a cell).
        base: Side of boxes that belong to the finest level, pixels (``by_area``).
        strides: Filled in by the compiler.
    """
    if len(strides) != len(like):
        raise UsageError(f"mask.weighted_boxes needs the stride of each of the {len(like)} levels, got {list(strides)}")
    masks = []
    for index, (level, stride) in enumerate(zip(like, strides, strict=True)):
        size = (level.shape[-2], level.shape[-1])
        own_weights = None if weights is None else weights[index].detach().split([len(b) for b in boxes])
        rows = []
        for image, own in enumerate(boxes):
            found = _cells(own, size, stride, image_sizes[image] if image_sizes else None, cells)
            value = 1 / found.cells if own_weights is None else own_weights[image]
            shown = cover(found, size)
            if assign == "by_area":
                shown = shown & (level_of_boxes(own, len(like), base) == index)[:, None, None]
            rows.append(_paint(shown, found, value, overlap))
        masks.append(torch.stack(rows)[:, None])
    return masks


def _cells(boxes: Tensor, size: tuple[int, int], stride: int, image: tuple[int, int] | None, how: str) -> CellBoxes:
    if how == "cut":
        return cut_to_cells(boxes, stride, size)
    if how == "overlapped":
        return overlapped_cells(boxes, stride, size)
    scale = (1 / stride, 1 / stride) if image is None else (size[1] / image[1], size[0] / image[0])
    return touched_cells(boxes, scale)


def _paint(shown: Tensor, cells: CellBoxes, value: Tensor, overlap: str) -> Tensor:
    return paint_largest(shown, value) if overlap == "largest" else paint_in_order(shown, cells.collapsed, value)
