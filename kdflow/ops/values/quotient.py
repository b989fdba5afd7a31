"""Shares and ratios."""

from __future__ import annotations

from kdflow.functional.checks import same_shape
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("values.quotient", gives=like("values"), no_grad=True)
def quotient(values: AnyTensor, other: AnyTensor) -> AnyTensor:
    """``values / other``, place by place, without gradient; 0 where ``other`` is 0.

    Args:
        values: Numbers or booleans.
        other: The same shape.
    """
    same_shape(values, other)
    divisor = single(other)
    empty = divisor == 0
    return (single(values) / divisor.masked_fill(empty, 1)).masked_fill(empty, 0)
