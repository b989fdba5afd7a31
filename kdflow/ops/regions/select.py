"""Some of the boxes of each image."""

from __future__ import annotations

from typing import Any

from kdflow.kinds import BOXES, ROW_VALUES, Boxes, RowValues
from kdflow.operation import op


def _infer(boxes: Boxes, keep: RowValues, labels: RowValues, **_: Any) -> dict[str, Any]:
    return {"boxes": list(boxes), "labels": labels}


@op("regions.select", gives={"boxes": BOXES, "labels": ROW_VALUES}, no_grad=True, infer=_infer)
def select(boxes: Boxes, keep: RowValues, labels: RowValues) -> dict[str, Any]:
    """The boxes where ``keep`` is above 0: ``boxes`` per image and their ``labels`` (N,); order is kept.

    Args:
        boxes: Per image (n, 4), such as ``student.roi.boxes``.
        keep: (N,) over all images, such as ``student.roi.positive``.
        labels: (N,) classes.
    """
    chosen = (keep > 0).split([len(b) for b in boxes])
    return {"boxes": [b.detach()[c] for b, c in zip(boxes, chosen, strict=True)], "labels": labels[keep > 0]}
