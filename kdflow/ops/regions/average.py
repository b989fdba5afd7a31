"""One vector per box and level."""

from __future__ import annotations

from typing import Any

from kdflow.errors import UsageError
from kdflow.functional.pooling import average_in_boxes
from kdflow.kinds import Boxes, Pyramid, Strides, of_axes
from kdflow.operation import op


@op("regions.average", gives=of_axes(("n", "c"), "levels"), defaults={"boxes": "targets.boxes"})
def average(features: Pyramid, boxes: Boxes, strides: Strides = ()) -> Any:
    """Mean of each map over the cells that a box touches, for every box on every level: per level (N, C).

    Cells run from ``int(x1 / stride)`` to ``int(x2 / stride)``, both included, as far as they lie on the map. Gradient
    flows to the maps. Source: ODGK (arXiv 2210.09022), hikvision-research/DAVAR-Lab-ML.

    Args:
        features: Maps per level.
        boxes: Per image (n, 4) xyxy pixels of the padded input.
        strides: Filled in by the compiler.
    """
    if len(strides) != len(features):
        raise UsageError(f"regions.average needs the stride of each of the {len(features)} levels, got {list(strides)}")
    own = [b.detach() for b in boxes]
    return [average_in_boxes(level, own, stride) for level, stride in zip(features, strides, strict=True)]
