"""Angle between vectors."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional.axes import dim_of
from kdflow.functional.checks import same_shape
from kdflow.functional.reduce import safe_root
from kdflow.functional.statistics import unit
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("loss.cosine", gives=like("student", drop="c"), zero_at_equality=True)
def cosine(
    student: AnyTensor, teacher: AnyTensor, eps: Annotated[float, Field(ge=0)] = 0.0, axes: Axes = ()
) -> AnyTensor:
    """``1 - cos(student, teacher)`` over the channels ``c``, which are used up; a zero vector gives 1 and no gradient.

    Args:
        student: Vectors along an axis c.
        teacher: Vectors of the same shape.
        eps: Added to the product of both lengths, so that short vectors count as less alike (equal ones are then not quite 0).
        axes: Filled in by the compiler.
    """
    same_shape(student, teacher)
    dim = (dim_of("c", axes),)
    if eps:
        lengths = [safe_root(side.square().sum(dim)) for side in (student, teacher)]
        return 1 - (student * teacher).sum(dim) / (lengths[0] * lengths[1] + eps)
    return 1 - (unit(student, dim) * unit(teacher, dim)).sum(dim)
