"""How well boxes lie on each other, one by one."""

from __future__ import annotations

from kdflow.functional import boxes as bx
from kdflow.functional.checks import same_shape
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("values.iou", gives=like("boxes", drop="c"), no_grad=True, example={"boxes": "b q c", "other": "b q c"})
def iou(boxes: AnyTensor, other: AnyTensor) -> AnyTensor:
    """IoU of boxes that belong together, of rows, queries or dense places: (..., 4) gives (...).

    Args:
        boxes: (..., 4) xyxy; boxes per image take ``regions.join`` first, ``decoder.boxes`` take ``transform.boxes``.
        other: As many boxes of the same unit.
    """
    same_shape(boxes, other)
    return bx.iou(single(boxes), single(other))
