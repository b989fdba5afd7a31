"""Generalised IoU of boxes that belong together."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional import boxes
from kdflow.functional.axes import last
from kdflow.functional.checks import same_shape
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("loss.giou", gives=like("student", drop="c"), zero_at_equality=True)
def giou(
    student: AnyTensor, teacher: AnyTensor, eps: Annotated[float, Field(gt=0)] = boxes.EPS, axes: Axes = ()
) -> AnyTensor:
    """``1 - GIoU``, box by box, in 0..2; the four coordinates ``c`` are used up.

    Args:
        student: xyxy boxes along axis c, any unit.
        teacher: Boxes of the same shape and unit.
        eps: Lower bound of the union and of the enclosing box.
        axes: Filled in by the compiler.
    """
    same_shape(student, teacher)
    return 1 - boxes.giou(last("c", student, axes), last("c", teacher, axes), eps)
