"""Local means of maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def gaussian(window: int, sigma: float, like: Tensor) -> Tensor:
    """(window,) weights of a Gaussian around the middle, which add up to 1."""
    places = torch.arange(window, dtype=like.dtype, device=like.device) - (window - 1) / 2
    weights = torch.exp(-places.square() / (2 * sigma**2))
    return weights / weights.sum()


def local_mean(features: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean around every place whose window lies on the map: (B, C, H, W) -> (B, C, H-w+1, W-w+1).

    Args:
        features: (B, C, H, W) maps, not smaller than the window.
        weights: (w,) weights along each side of the window.
    """
    channels = features.shape[1]
    rows, columns = weights[None, None, :, None], weights[None, None, None, :]
    down = functional.conv2d(features, rows.expand(channels, 1, -1, 1), groups=channels)
    return functional.conv2d(down, columns.expand(channels, 1, 1, -1), groups=channels)


def mirror(features: Tensor, cells: int) -> Tensor:
    """Maps grown by so many cells on each side, mirrored at the border cell; where they are too small, the border is repeated."""
    if cells == 0:
        return features
    mode = "reflect" if min(features.shape[-2:]) > cells else "replicate"
    return functional.pad(features, (cells, cells, cells, cells), mode=mode)
