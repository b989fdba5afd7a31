"""Generalised IoU of boxes that belong together."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional import boxes
from kdflow.functional.checks import same_shape
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("loss.giou", gives=like("student", drop="c"), zero_at_equality=True)
def giou(student: AnyTensor, teacher: AnyTensor, eps: Annotated[float, Field(gt=0)] = boxes.EPS) -> AnyTensor:
    """``1 - GIoU``, box by box, in 0..2; the four coordinates ``c`` are used up.

    Args:
        student: (..., 4) xyxy boxes, any unit.
        teacher: Boxes of the same shape and unit.
        eps: Lower bound of the union and of the enclosing box.
    """
    same_shape(student, teacher)
    return 1 - boxes.giou(student, teacher, eps)
