"""Numbers by chance."""

from __future__ import annotations

import torch

from kdflow.errors import UsageError
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor
from kdflow.operation import like as kind_of
from kdflow.operation import op


@op("values.random", gives=kind_of("like"), stochastic=True, no_grad=True)
def random(like: AnyTensor, low: float = 0.0, high: float = 1.0) -> AnyTensor:
    """Even numbers between ``low`` and ``high``, drawn anew every step, without gradient.

    Args:
        like: Any tensor, whose shape is taken.
        low: Smallest number.
        high: Largest number.
    """
    if high <= low:
        raise UsageError(f"values.random draws between low and high, here {low:g} and {high:g}; let high be the larger one")
    return low + (high - low) * torch.rand_like(single(like))
