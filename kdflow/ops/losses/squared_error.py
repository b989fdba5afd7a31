"""Squared difference."""

from __future__ import annotations

from kdflow.functional.checks import same_shape
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("loss.squared_error", gives=like("student"), zero_at_equality=True)
def squared_error(student: AnyTensor, teacher: AnyTensor) -> AnyTensor:
    """``(student - teacher)^2``, element by element, without the factor 1/2.

    Args:
        student: Any tensor.
        teacher: A tensor of the same shape.
    """
    same_shape(student, teacher)
    return (student - teacher).square()
