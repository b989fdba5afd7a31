"""Boxes by their corners."""

from __future__ import annotations

from kdflow.functional.box_forms import to_corners
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("transform.corners", gives=like("features"), example={"features": "b q c"})
def corners(features: AnyTensor) -> AnyTensor:
    """Corners xyxy of boxes cxcywh, in the same unit.

    Args:
        features: (..., 4) boxes, such as ``decoder.boxes`` or rows of them.
    """
    return to_corners(features)
