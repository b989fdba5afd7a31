"""Layouts in which golden files store what the graph keeps in another form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def cells(levels: list[Tensor]) -> list[Tensor]:
    """(B, A, H, W) per level -> (B, H*W*A, 1)."""
    return [t.permute(0, 2, 3, 1).reshape(t.shape[0], -1, 1) for t in levels]


def cell_values(levels: list[Tensor]) -> list[Tensor]:
    """(B, A, H, W) per level -> (B, H*W*A)."""
    return [t.permute(0, 2, 3, 1).reshape(t.shape[0], -1) for t in levels]


def dense(levels: list[Tensor]) -> list[Tensor]:
    """(B, C, H, W) per level, one anchor -> (B, H*W, C)."""
    return [t.permute(0, 2, 3, 1).flatten(1, 2) for t in levels]


def no_box_axis(masks: list[Tensor]) -> list[Tensor]:
    """Masks (B, 1, H, W) -> (B, H, W)."""
    return [m.squeeze(1) for m in masks]


def canvas(size: Tensor) -> Tensor:
    """(height, width) -> an empty image of that size."""
    height, width = (int(s) for s in size)
    return torch.zeros(1, 3, height, width)


def positive(labels: Any) -> Any:
    """Labels -> True where positive (1), per level or flat."""
    return [t > 0 for t in labels] if isinstance(labels, list) else labels > 0


def foreground(labels: Tensor, background: Tensor) -> Tensor:
    """Class labels -> True where not the background class."""
    return labels != background


def background(labels: Tensor, index: Tensor) -> Tensor:
    """Class labels -> True where the background class."""
    return labels == index
