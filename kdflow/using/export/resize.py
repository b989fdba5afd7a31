"""The resize that evaluations use (8 bits, bilinear, antialiased), as sums of products that any runtime computes to the bit.

torchvision resizes 8-bit pictures on a CPU in two passes, rows then columns, with whole-number weights: every weight is rounded
to a multiple of ``2 ** -bits``, with as many bits as let the largest one fit into 16, and every pass ends in whole numbers again.
Sums of such products are exact in 64-bit floats.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_BITS = 22


def weights(length: int, target: int) -> tuple[Tensor, Tensor]:
    """How a side of ``length`` pixels becomes one of ``target``.

    Returns:
        (target, length) whole numbers as 64-bit floats, and (1,) the power of two that they are multiplied by.
    """
    places = torch.arange(length, dtype=torch.float64)
    count = places[-1:] + 1
    scale = count / target
    support = scale.clamp(min=1.0)
    centres = scale * (torch.arange(target, dtype=torch.float64) + 0.5)
    first = (centres - support + 0.5).floor().clamp(min=0)
    last = (centres + support + 0.5).floor().minimum(count)
    distance = (places[None] - centres[:, None] + 0.5) / support
    inside = (places[None] >= first[:, None]) & (places[None] < last[:, None])
    share = torch.where(inside, (1 - distance.abs()).clamp(min=0), torch.zeros_like(distance))
    share = share / share.sum(1, keepdim=True)
    powers = 2.0 ** torch.arange(1, MOST_BITS + 1, dtype=torch.float64)
    fits = ((0.5 + share.max() * powers).floor() < 2**15).to(torch.float64)
    unit = 2.0 ** fits.sum().reshape(1)
    return (share * unit + 0.5).floor(), unit


def resize(pictures: Tensor, height: int, width: int) -> Tensor:
    """(N, 3, H, W) whole numbers in 0..255, of any type, as (N, 3, height, width) 64-bit floats that are whole numbers."""
    across, unit = weights(pictures.shape[-1], width)
    done = _whole(pictures.to(torch.float64) @ across.T, unit)
    down, unit = weights(pictures.shape[-2], height)
    return _whole(down @ done, unit)


def _whole(sums: Tensor, unit: Tensor) -> Tensor:
    return ((sums + unit / 2) / unit).floor().clamp(0, 255)
