"""How badly boxes that belong together overlap."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kdflow.functional import boxes
from kdflow.functional.axes import last
from kdflow.functional.checks import same_shape
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("loss.iou", gives=like("student", drop="c"), zero_at_equality=True)
def iou(
    student: AnyTensor,
    teacher: AnyTensor,
    form: Literal["iou", "log_iou", "giou"] = "iou",
    eps: Annotated[float, Field(gt=0)] = boxes.EPS,
    axes: Axes = (),
) -> AnyTensor:
    """``1 - IoU`` in 0..1, ``-ln(max(IoU, eps))`` or ``1 - GIoU`` in 0..2, box by box; the four coordinates ``c`` are used up.

    Boxes that do not overlap have no gradient but by ``giou``. Sources: UnitBox (``log_iou``, mmdetection's ``IoULoss``),
    Rezatofighi et al., CVPR 2019 (``giou``).

    Args:
        student: xyxy boxes along axis c, any unit.
        teacher: Boxes of the same shape and unit.
        form: Which of the three.
        eps: Lower bound of the union and of the enclosing box; of the IoU in ``log_iou``.
        axes: Filled in by the compiler.
    """
    same_shape(student, teacher)
    ours, theirs = last("c", student, axes), last("c", teacher, axes)
    if form == "giou":
        return 1 - boxes.giou(ours, theirs, eps)
    overlap = boxes.iou(ours, theirs, eps)
    return 1 - overlap if form == "iou" else -overlap.clamp(min=eps).log()
