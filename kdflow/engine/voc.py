"""VOC's mean average precision at IoU 0.5, in its two forms (11 points, as in 2007, and the area under the curve)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

THRESHOLD = 0.5


def voc_ap50(truth: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """``voc07_ap50`` and ``voc_ap50`` in 0..1, averaged over the categories that have objects; empty without any.

    A detection belongs to the box of its class in its image that it overlaps most. It is right when that IoU is at least 0.5
    and no better-scored detection took the box; it does not count when the box is to be ignored (VOC's difficult).

    Args:
        truth: COCO document; annotations with ``iscrowd`` 1 are ignored boxes.
        found: Detections with ``image_id``, ``category_id``, ``bbox`` (x, y, width, height) and ``score``.
    """
    boxes, detections = _by_category(truth["annotations"]), _by_category(found)
    curves = [
        _curve(boxes[category], detections[category]) for category in boxes if any(not b["iscrowd"] for b in boxes[category])
    ]
    if not curves:
        return {}
    return {
        "voc07_ap50": float(np.mean([eleven_points(*curve) for curve in curves])),
        "voc_ap50": float(np.mean([area(*curve) for curve in curves])),
    }


def eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean over the recalls 0, 0.1, ... 1 of the best precision at that recall or above."""
    points = np.arange(11) / 10
    return float(np.mean([precision[recall >= point - 1e-12].max(initial=0.0) for point in points]))


def area(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the precision made falling, over all recalls."""
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * falling))


def _curve(boxes: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision after each counted detection, best score first."""
    objects = sum(not b["iscrowd"] for b in boxes)
    images: dict[int, list[int]] = defaultdict(list)
    for index, box in enumerate(boxes):
        images[box["image_id"]].append(index)
    taken: set[int] = set()
    right: list[bool] = []
    for detection in sorted(found, key=lambda one: -one["score"]):
        best, overlap = _nearest(detection, boxes, images.get(detection["image_id"], []))
        hit = overlap >= THRESHOLD
        if hit and boxes[best]["iscrowd"]:
            continue
        right.append(hit and best not in taken)
        if hit:
            taken.add(best)
    counted = np.cumsum(right)
    return counted / objects, counted / np.arange(1, len(right) + 1)


def _nearest(
    detection: Mapping[str, Any], boxes: Sequence[Mapping[str, Any]], candidates: Sequence[int]
) -> tuple[int, float]:
    """Index and IoU of the candidate that the detection overlaps most; (-1, 0) without candidates."""
    overlaps = [(_iou(detection["bbox"], boxes[index]["bbox"]), index) for index in candidates]
    overlap, best = max(overlaps, key=lambda pair: pair[0], default=(0.0, -1))
    return best, overlap


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def _by_category(entries: Iterable[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    found: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in entries:
        found[entry["category_id"]].append(entry)
    return found
