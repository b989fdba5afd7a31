"""Moments and norms of feature maps. The divisor of a standard deviation is n-1; a single sample has deviation 0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BATCH_AND_SPACE = (0, 2, 3)
"""Axes over which a (B, C, H, W) map is standardised per channel."""


def mean_and_std(values: Tensor, dims: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation over ``dims``, kept as size-1 axes; both carry gradient.

    The deviation is 0, with zero gradient, for constant values and for a single sample.
    """
    mean = values.mean(dim=tuple(dims), keepdim=True)
    count = values.numel() // max(mean.numel(), 1)
    variance = (values - mean).square().sum(dim=tuple(dims), keepdim=True) / max(count - 1, 1)
    spread = variance > 0
    return mean, torch.where(spread, torch.where(spread, variance, 1.0).sqrt(), 0.0)


def standardize(values: Tensor, dims: Sequence[int] = BATCH_AND_SPACE, eps: float = 1e-6) -> Tensor:
    """``(values - mean) / (std + eps)`` over ``dims``."""
    mean, std = mean_and_std(values, dims)
    return (values - mean) / (std + eps)


def match_statistics(values: Tensor, like: Tensor, dims: Sequence[int] = BATCH_AND_SPACE, eps: float = 1e-6) -> Tensor:
    """``values`` standardised over ``dims``, then given the mean and deviation of ``like``.

    With one sample per channel the result is the value of ``like``.
    """
    mean, std = mean_and_std(like, dims)
    return standardize(values, dims, eps) * std + mean


def unit(values: Tensor, dims: Sequence[int], eps: float = 1e-12) -> Tensor:
    """``values`` over their L2 norm over ``dims``; a vector shorter than ``eps`` becomes 0, with zero gradient."""
    square = values.square().sum(dim=tuple(dims), keepdim=True)
    long = square > eps * eps
    return values * torch.where(long, torch.where(long, square, 1.0).rsqrt(), 0.0)
