"""Numbers that need at least single precision."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def single(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it was coarser (half, bfloat16, integer, bool); float64 stays."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def in_full(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: matrix products inside are not lowered to half precision by autocast, and float inputs are made single.

    For small products whose differences matter (distances, cosines, costs of pairs). The device is that of the first
    tensor among the positional arguments.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        first = next((a for a in args if isinstance(a, Tensor)), None)
        if first is None or not torch.is_autocast_enabled(first.device.type):
            return function(*args, **kwargs)
        raised: list[Any] = [single(a) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
        with torch.autocast(first.device.type, enabled=False):
            return function(*raised, **kwargs)

    return call
