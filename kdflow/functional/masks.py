"""Boxes painted on the grids of a pyramid. Nothing here selects by a boolean, so shapes never depend on the boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def level_of_boxes(boxes: Tensor, levels: int, base: float = 56.0, border: float = 1.0) -> Tensor:
    """Pyramid level that a box belongs to by its size: ``floor(log2(sqrt(w*h) / base + 1e-6))`` within 0..levels-1.

    Args:
        boxes: (N, 4) xyxy pixels.
        levels: Number of levels, finest first.
        base: Side of a box that belongs to the finest level, pixels.
        border: Added to width and height (1: the convention in which both border pixels belong to the box).

    Returns:
        (N,) int64.
    """
    sides = (boxes[:, 2:] - boxes[:, :2] + border).clamp(min=0)
    size = sides.prod(dim=1).sqrt()
    return torch.log2(size / base + 1e-6).floor().clamp(0, levels - 1).long()


def grid_bounds(boxes: Tensor, stride: float, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Half-open cell range ``(x1, y1, x2, y2)`` that a box covers; a box that collapses keeps one cell.

    Coordinates are divided by the stride and cut to integers. When the first and last column (or row) coincide, only
    the cell at the box's first corner is covered (DeFeat, ``anchor_head.py``). Corners beyond the grid are moved to its
    last cell.

    Args:
        boxes: (N, 4) xyxy pixels.
        stride: Pixels per cell.
        size: (rows, columns) of the grid.
    """
    rows, columns = size
    cells = (boxes / stride).trunc().long()
    x1, y1 = cells[:, 0].clamp(0, columns - 1), cells[:, 1].clamp(0, rows - 1)
    x2, y2 = cells[:, 2].clamp(max=columns), cells[:, 3].clamp(max=rows)
    collapsed = (x2 <= x1) | (y2 <= y1)
    return x1, y1, torch.where(collapsed, x1 + 1, x2), torch.where(collapsed, y1 + 1, y2)


def paint(
    boxes: Sequence[Tensor], stride: float, size: tuple[int, int], shown: Sequence[Tensor] | None = None
) -> Tensor:
    """0/1 mask of the cells that any box covers, by the rule of :func:`grid_bounds`.

    Each box adds +1 and -1 at its corners; the running sum over rows and columns then counts the boxes above each cell.

    Args:
        boxes: Per image (n, 4) xyxy pixels, n may be 0.
        stride: Pixels per cell.
        size: (rows, columns) of the grid.
        shown: Per image (n,) bool, False for boxes that are left out; None paints all.

    Returns:
        (B, 1, rows, columns) float32.
    """
    rows, columns = size
    joined = torch.cat(list(boxes))
    x1, y1, x2, y2 = grid_bounds(joined, stride, size)
    image = torch.cat([b.new_full((len(b),), i, dtype=torch.long) for i, b in enumerate(boxes)])
    step = torch.ones_like(image) if shown is None else torch.cat(list(shown)).long()
    corners = torch.zeros((len(boxes), rows + 1, columns + 1), dtype=torch.long, device=joined.device)
    for y, x, sign in ((y1, x1, 1), (y1, x2, -1), (y2, x1, -1), (y2, x2, 1)):
        corners = corners.index_put((image, y, x), sign * step, accumulate=True)
    counts = corners.cumsum(1).cumsum(2)[:, None, :rows, :columns]
    return (counts > 0).float()


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 1, H, W) mask brought to another grid by its nearest cell, without blending."""
    return mask if mask.shape[-2:] == size else functional.interpolate(mask, size=size, mode="nearest")
