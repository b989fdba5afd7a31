"""How well two boxes agree."""

from __future__ import annotations

from kdflow.functional import boxes
from kdflow.functional.axes import last
from kdflow.functional.checks import same_shape
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("values.iou", gives=like("values", drop="c"), no_grad=True, example={"values": "n c", "other": "n c"})
def iou(values: AnyTensor, other: AnyTensor, axes: Axes = ()) -> AnyTensor:
    """Intersection over union of boxes that belong together, without gradient; the four coordinates ``c`` are used up.

    Args:
        values: xyxy boxes along axis c.
        other: Boxes of the same shape and unit.
        axes: Filled in by the compiler.
    """
    same_shape(values, other)
    return boxes.iou(last("c", single(values), axes), last("c", single(other), axes))
