"""Angle between vectors."""

from __future__ import annotations

from kdflow.functional.axes import dim_of
from kdflow.functional.checks import same_shape
from kdflow.functional.statistics import unit
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("loss.cosine", gives=like("student", drop="c"), zero_at_equality=True)
def cosine(student: AnyTensor, teacher: AnyTensor, axes: Axes = ()) -> AnyTensor:
    """``1 - cos(student, teacher)`` over the channels ``c``, which are used up; a zero vector gives 1 and no gradient.

    Args:
        student: Vectors along an axis c.
        teacher: Vectors of the same shape.
        axes: Filled in by the compiler.
    """
    same_shape(student, teacher)
    dim = (dim_of("c", axes),)
    return 1 - (unit(student, dim) * unit(teacher, dim)).sum(dim)
