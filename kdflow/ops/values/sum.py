"""Several numbers as one."""

from __future__ import annotations

import torch

from kdflow.functional.precision import single
from kdflow.kinds import Scalar
from kdflow.operation import op


@op("values.sum")
def add(values: list[Scalar]) -> Scalar:
    """The sum of scalars, such as the losses of one criterion, so that they share one weight; gradient flows to all.

    Args:
        values: Scalars.
    """
    return torch.stack([single(value) for value in values]).sum()
