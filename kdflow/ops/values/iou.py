"""How well boxes lie on each other, one by one."""

from __future__ import annotations

from kdflow.functional import boxes as bx
from kdflow.functional.checks import same_shape
from kdflow.functional.precision import single
from kdflow.kinds import Rows, RowValues
from kdflow.operation import op


@op("values.iou", no_grad=True)
def iou(boxes: Rows, other: Rows) -> RowValues:
    """IoU of boxes that belong together: (N,).

    Args:
        boxes: (N, 4) xyxy; boxes per image take ``regions.join`` first.
        other: As many boxes of the same unit.
    """
    same_shape(boxes, other)
    return bx.iou(single(boxes), single(other))
