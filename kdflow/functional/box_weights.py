"""Boxes painted with a weight each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kdflow.functional.masks import grid_bounds

Size = tuple[int, int]


class CellBoxes(NamedTuple):
    """Half-open cell ranges of boxes, (n,) int64 each, and which of them had collapsed to one cell."""

    x1: Tensor
    y1: Tensor
    x2: Tensor
    y2: Tensor
    collapsed: Tensor

    @property
    def cells(self) -> Tensor:
        """Number of cells of each box, as floats."""
        return ((self.x2 - self.x1) * (self.y2 - self.y1)).float()


def cut_to_cells(boxes: Tensor, stride: float, size: Size) -> CellBoxes:
    """Cells between the corners cut to integers, the last ones excluded; see :func:`kdflow.functional.masks.grid_bounds`."""
    bounds = grid_bounds(boxes, stride, size)
    cells = (boxes / stride).trunc()
    collapsed = (cells[:, 2] <= cells[:, 0]) | (cells[:, 3] <= cells[:, 1])
    return CellBoxes(*bounds, collapsed)


def touched_cells(boxes: Tensor, scale: tuple[float, float]) -> CellBoxes:
    """Cells from ``floor`` of the first to ``ceil`` of the last corner, both included, not cut at the map's border.

    Args:
        boxes: (n, 4) xyxy pixels.
        scale: Cells per pixel in x and y.
    """
    factors = boxes.new_tensor([*scale, *scale])
    scaled = boxes * factors
    first, last = scaled[:, :2].floor().long(), scaled[:, 2:].ceil().long() + 1
    nowhere = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    return CellBoxes(first[:, 0], first[:, 1], last[:, 0], last[:, 1], nowhere)


def overlapped_cells(boxes: Tensor, stride: float, size: Size) -> CellBoxes:
    """Cells that a box overlaps: ``floor`` of the first to ``ceil`` of the last corner, at least one, cut at the map's border.

    Args:
        boxes: (n, 4) xyxy pixels.
        stride: Pixels per cell.
        size: (height, width) of the map.
    """
    most = boxes.new_tensor([size[1], size[0]]).long()
    first = (boxes[:, :2] / stride).floor().long().clamp(min=0).minimum(most - 1)
    last = (boxes[:, 2:] / stride).ceil().long().minimum(most).maximum(first + 1)
    nowhere = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    return CellBoxes(first[:, 0], first[:, 1], last[:, 0], last[:, 1], nowhere)


def cover(cells: CellBoxes, size: Size) -> Tensor:
    """(n, H, W) True on the cells of each box."""
    rows = torch.arange(size[0], device=cells.x1.device)
    columns = torch.arange(size[1], device=cells.x1.device)
    inside_y = (rows >= cells.y1[:, None]) & (rows < cells.y2[:, None])
    inside_x = (columns >= cells.x1[:, None]) & (columns < cells.x2[:, None])
    return inside_y[:, :, None] & inside_x[:, None, :]


def paint_largest(covered: Tensor, weights: Tensor) -> Tensor:
    """The largest weight of the boxes on each cell, 0 outside: (n, H, W) and (n,) give (H, W)."""
    if len(covered) == 0:
        return covered.new_zeros(covered.shape[1:], dtype=weights.dtype)
    shown = torch.where(covered, weights[:, None, None], -torch.inf).amax(0)
    return torch.where(covered.any(0), shown, 0.0)


def paint_in_order(covered: Tensor, collapsed: Tensor, weights: Tensor) -> Tensor:
    """Boxes painted one over the other; a collapsed one only raises its cell. 0 outside.

    Args:
        covered: (n, H, W) cells of each box.
        collapsed: (n,) boxes that do not overwrite but give ``max(there, weight)``.
        weights: (n,).

    Returns:
        (H, W).
    """
    if len(covered) == 0:
        return covered.new_zeros(covered.shape[1:], dtype=weights.dtype)
    number = torch.arange(1, len(covered) + 1, device=covered.device)[:, None, None]
    full = covered & ~collapsed[:, None, None]
    last = torch.where(full, number, 0).amax(0)
    padded = torch.cat([weights.new_zeros(1), weights])
    below = padded[last]
    raising = covered & collapsed[:, None, None] & (number > last)
    raised = torch.where(raising, weights[:, None, None], -torch.inf).amax(0)
    return torch.maximum(below, raised)


def gaussians(cells: CellBoxes, size: Size, spread: float = 2.0) -> Tensor:
    """A bell inside each box, ``exp(-(dx^2 / (w/2)^2 + dy^2 / (h/2)^2) / spread)``, 0 outside; 1 on collapsed boxes.

    dx, dy count from the first cell plus half the number of cells, so a bell over an even number of cells peaks on a
    cell and is not symmetric.

    Args:
        cells: Cell ranges of n boxes.
        size: (rows, columns) of the grid.
        spread: Variance in units of the squared half box, times two.

    Returns:
        (n, H, W).
    """
    distance = torch.zeros((len(cells.x1), *size), device=cells.x1.device)
    for axis, first, last in ((2, cells.x1, cells.x2), (1, cells.y1, cells.y2)):
        half = (last - first).float().clamp(min=1) / 2
        place = torch.arange(size[axis - 1], device=first.device)
        offset = (place - first[:, None] - half[:, None]) / half[:, None]
        distance = distance + offset.square().unsqueeze(3 - axis)
    bell = torch.where(cells.collapsed[:, None, None], 1.0, torch.exp(-distance / spread))
    return torch.where(cover(cells, size), bell, 0.0)


def paint_bells(
    boxes: Sequence[Tensor], stride: float, size: Size, spread: float, shown: Sequence[Tensor] | None = None
) -> Tensor:
    """A bell over each box, the larger value where boxes overlap, 0 outside: (B, 1, H, W).

    Args:
        boxes: Per image (n, 4) xyxy pixels, n may be 0.
        stride: Pixels per cell.
        size: (rows, columns) of the grid.
        spread: As in :func:`gaussians`.
        shown: Per image (n,) bool, False for boxes that are left out; None paints all.
    """
    images = []
    for number, own in enumerate(boxes):
        bells = gaussians(cut_to_cells(own, stride, size), size, spread)
        bells = bells if shown is None else bells * shown[number][:, None, None]
        images.append(torch.cat([bells, bells.new_zeros((1, *size))]).amax(0))
    return torch.stack(images)[:, None]
