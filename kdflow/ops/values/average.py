"""What two models say together."""

from __future__ import annotations

from kdflow.functional.checks import same_shape
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("values.average", gives=like("values"), no_grad=True)
def average(values: AnyTensor, other: AnyTensor) -> AnyTensor:
    """``(values + other) / 2``, place by place, without gradient.

    Args:
        values: Any numbers, such as the student's attention.
        other: The same shape, such as the teacher's attention.
    """
    same_shape(values, other)
    return (single(values) + single(other)) / 2
