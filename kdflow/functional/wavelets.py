"""The orthonormal Haar transform of maps, one level at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def haar(features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean band and three bands of differences of every 2x2 block ``a b / c d``, each half as high and wide.

    They are ``(a+b+c+d)/2``, ``(a+b-c-d)/2`` (of rows), ``(a-b+c-d)/2`` (of columns) and ``(a-b-c+d)/2``. Odd sides get a row or
    column of zeros at the end first.

    Args:
        features: (B, C, H, W).
    """
    height, width = features.shape[-2:]
    even = functional.pad(features, (0, width % 2, 0, height % 2))
    a, b, c, d = (even[..., y::2, x::2] for y in (0, 1) for x in (0, 1))
    return (a + b + c + d) / 2, (a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2


def inverse_haar(low: Tensor, rows: Tensor, columns: Tensor, diagonal: Tensor) -> Tensor:
    """The map whose bands these are, (B, C, 2h, 2w): the transform is its own inverse, block by block."""
    a, b = low + rows + columns + diagonal, low + rows - columns - diagonal
    c, d = low - rows + columns - diagonal, low - rows - columns + diagonal
    blocks = torch.stack([torch.stack([a, b], -1), torch.stack([c, d], -1)], -3) / 2
    return blocks.flatten(-2).flatten(-3, -2)
