"""How many entries of a whole value are selected."""

from __future__ import annotations

import torch

from kdflow.kinds import AnyValue, Scalar
from kdflow.operation import op


@op("stats.count", no_grad=True)
def count(values: AnyValue) -> Scalar:
    """Number of entries above 0 over all axes and all levels or layers, as float32.

    Args:
        values: A tensor or a stack of tensors, such as ``student.assign.positive``.
    """
    parts = [values] if isinstance(values, torch.Tensor) else list(values)
    return torch.stack([(part > 0).sum() for part in parts]).sum().float()
