"""Logarithm of the IoU of boxes that belong together."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional import boxes
from kdflow.functional.axes import last
from kdflow.functional.checks import same_shape
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("loss.iou_log", gives=like("student", drop="c"), zero_at_equality=True)
def iou_log(
    student: AnyTensor, teacher: AnyTensor, eps: Annotated[float, Field(gt=0)] = boxes.EPS, axes: Axes = ()
) -> AnyTensor:
    """``-ln(max(IoU, eps))``, box by box; the four coordinates ``c`` are used up.

    Boxes that do not overlap give ``-ln(eps)`` and no gradient. Source: UnitBox, as in mmdetection's ``IoULoss`` (log).

    Args:
        student: xyxy boxes along axis c, any unit.
        teacher: Boxes of the same shape and unit.
        eps: Smallest IoU, and lower bound of the union.
        axes: Filled in by the compiler.
    """
    same_shape(student, teacher)
    overlap = boxes.iou(last("c", student, axes), last("c", teacher, axes), eps)
    return -overlap.clamp(min=eps).log()
