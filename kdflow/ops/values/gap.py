"""How far two judgements are apart."""

from __future__ import annotations

from kdflow.functional.checks import same_shape
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("values.gap", gives=like("values"), no_grad=True)
def gap(values: AnyTensor, other: AnyTensor, inverse: bool = False) -> AnyTensor:
    """``|values - other|``, or ``1 - |values - other|``, without gradient.

    Args:
        values: Any numbers, such as the student's scores.
        other: The same shape, such as the teacher's scores.
        inverse: Give the agreement instead of the gap.
    """
    same_shape(values, other)
    apart = (single(values) - single(other)).abs()
    return 1 - apart if inverse else apart
