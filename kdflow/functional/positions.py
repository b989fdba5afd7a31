"""Sine codes of places."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BASE = 10000.0


def frequencies(count: int, like: Tensor) -> Tensor:
    """``count`` angular factors ``1 / 10000^(k / count)``, k = 0, 1, ..."""
    return BASE ** (-torch.arange(count, dtype=like.dtype, device=like.device) / count)


def point_code(points: Tensor, width: int = 128) -> Tensor:
    """Sine code of relative points: (..., 2) -> (..., 2 * width), x first; ``width / 2`` sines, then as many cosines.

    The angle of coordinate u is ``2 pi u / 10000^(2k / width)``.
    """
    angles = (2 * math.pi * points[..., None] * frequencies(width // 2, points)).movedim(-2, 0)
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=-1)


def inside_images(
    size: tuple[int, int], image_sizes: Sequence[tuple[int, int]], canvas: tuple[int, int]
) -> list[tuple[int, int]]:
    """(rows, columns) of a map that each unpadded image reaches: sides over the cell's side, rounded up."""
    return [
        (min(size[0], math.ceil(h * size[0] / canvas[0])), min(size[1], math.ceil(w * size[1] / canvas[1])))
        for h, w in image_sizes
    ]


def place_code(size: tuple[int, int], reach: tuple[int, int], width: int, like: Tensor) -> Tensor:
    """DETR's normalised sine code of every cell, (H, W, width): y first, sine and cosine in turns.

    Cells are counted from 1 and divided by the number inside the image. Cells below it repeat the last row number and have
    column number 0, those beside it the other way round.

    Args:
        size: (rows, columns) of the map.
        reach: Those inside the image.
        width: Numbers per cell, a multiple of 4.
        like: Gives type and device.
    """
    shown = torch.zeros(size, dtype=like.dtype, device=like.device)
    shown[: reach[0], : reach[1]] = 1
    codes = []
    for dim, inside in enumerate(reach):
        angle = 2 * math.pi * shown.cumsum(dim)[..., None] / (inside + 1e-6) * frequencies(width // 4, like)
        codes.append(torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(2))
    return torch.cat(codes, dim=-1)
