"""How sure a sigmoid head is."""

from __future__ import annotations

import torch

from kdflow.functional.axes import dim_of
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("transform.confidence", gives=like("logits", drop="c"), no_grad=True)
def confidence(logits: AnyTensor, axes: Axes = ()) -> AnyTensor:
    """``max_c sigmoid(logits)`` of every place, row or query, without gradient.

    Args:
        logits: Class logits with an axis c.
        axes: Filled in by the compiler.
    """
    return torch.sigmoid(single(logits)).amax(dim_of("c", axes))
