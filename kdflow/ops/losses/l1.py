"""Absolute difference."""

from __future__ import annotations

from kdflow.functional.checks import same_shape
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("loss.l1", gives=like("student"), zero_at_equality=True)
def l1(student: AnyTensor, teacher: AnyTensor) -> AnyTensor:
    """``|student - teacher|``, element by element.

    Args:
        student: Any tensor.
        teacher: A tensor of the same shape.
    """
    same_shape(student, teacher)
    return (student - teacher).abs()
