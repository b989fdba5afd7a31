"""The sum of a whole value."""

from __future__ import annotations

import torch

from kdflow.functional.precision import single
from kdflow.kinds import AnyValue, Scalar
from kdflow.operation import op


@op("stats.total", no_grad=True)
def total(values: AnyValue) -> Scalar:
    """Sum of all entries over all axes and all levels or layers, without gradient: a divisor common to all levels.

    Args:
        values: A tensor or a stack of tensors; booleans count as 0 and 1.
    """
    parts = [values] if isinstance(values, torch.Tensor) else list(values)
    return torch.stack([single(part.detach()).sum() for part in parts]).sum()
