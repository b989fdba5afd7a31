"""Angle between vectors."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional.axes import dims_of
from kdflow.functional.checks import same_shape
from kdflow.functional.reduce import safe_root
from kdflow.functional.statistics import unit
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("loss.cosine", gives=like("student", drops="over"), zero_at_equality=True)
def cosine(
    student: AnyTensor,
    teacher: AnyTensor,
    over: tuple[str, ...] = ("c",),
    eps: Annotated[float, Field(ge=0)] = 0.0,
    axes: Axes = (),
) -> AnyTensor:
    """``1 - cos(student, teacher)`` over the named axes together, which are used up; a zero vector gives 1 and no gradient.

    Of vectors without their means (``transform.layer_norm`` with ``scale: false``) it is ``1 - r`` with Pearson's r.

    Args:
        student: Any tensor.
        teacher: A tensor of the same shape.
        over: Axes of one vector: ``[c]`` each row or place by itself, ``[n]`` each column of rows.
        eps: Added to the product of both lengths, so that short vectors count as less alike (equal ones are then not quite 0).
        axes: Filled in by the compiler.
    """
    same_shape(student, teacher)
    dims = dims_of(over, axes)
    if eps:
        lengths = [safe_root(side.square().sum(dims)) for side in (student, teacher)]
        return 1 - (student * teacher).sum(dims) / (lengths[0] * lengths[1] + eps)
    return 1 - (unit(student, dims) * unit(teacher, dims)).sum(dims)
