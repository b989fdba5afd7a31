"""Two weights as one."""

from __future__ import annotations

from kdflow.functional.checks import same_shape
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("values.product", gives=like("values"))
def product(values: AnyTensor, other: AnyTensor) -> AnyTensor:
    """``values * other``, place by place; booleans count as 0 and 1.

    Args:
        values: Numbers or booleans.
        other: The same shape.
    """
    same_shape(values, other)
    return single(values) * single(other)
