"""VOC's mean average precision at IoU 0.5, in its two forms (11 points, as in 2007, and the area under the curve)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    boxes, detections = Boxes.of(truth["annotations"]), Boxes.of(found)
    ignored = np.array([bool(one["iscrowd"]) for one in truth["annotations"]], dtype=bool)
    by_image = np.argsort(boxes.images, kind="stable")
    by_score = np.argsort(-np.array([one["score"] for one in found], dtype=np.float64), kind="stable")
    curves, counted = [], set(boxes.categories[~ignored].tolist())
    for category in dict.fromkeys(category for category in boxes.categories.tolist() if category in counted):
        theirs = by_image[boxes.categories[by_image] == category]
        own = by_score[detections.categories[by_score] == category]
        curves.append(_curve(boxes.chosen(theirs), ignored[theirs], detections.chosen(own)))
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


@dataclass(frozen=True)
class Boxes:
    """Boxes of many images as arrays.

    Attributes:
        images: (n,) image ids.
        categories: (n,) category ids.
        places: (n, 4) x, y, width, height.
    """

    images: np.ndarray
    categories: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, entries: Sequence[Mapping[str, Any]]) -> Boxes:
        """From COCO's annotations or results."""
        images, categories = (np.array([one[key] for one in entries], dtype=np.int64) for key in ("image_id", "category_id"))
        return cls(images, categories, np.array([one["bbox"] for one in entries], dtype=np.float64).reshape(-1, 4))

    def chosen(self, rows: np.ndarray) -> Boxes:
        """These rows."""
        return Boxes(self.images[rows], self.categories[rows], self.places[rows])


def _curve(boxes: Boxes, ignored: np.ndarray, found: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision after each counted detection of a category; its boxes stand by image, its detections by score."""
    nearest, overlap = _nearest(found, boxes)
    hit = overlap >= THRESHOLD
    counts = ~(hit & ignored[nearest])
    # Of all that hit a box, the best-scored one has it.
    right = np.zeros(len(hit), dtype=bool)
    hits = np.flatnonzero(hit & counts)
    right[hits[np.unique(nearest[hits], return_index=True)[1]]] = True
    counted = np.cumsum(right[counts])
    return counted / (~ignored).sum(), counted / np.arange(1, counts.sum() + 1)


def _nearest(found: Boxes, boxes: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """For each detection the index and IoU of the box in its image that it overlaps most, the first of equals; IoU 0 without any.

    Args:
        found: Detections.
        boxes: At least one, sorted by image.
    """
    first, behind = (np.searchsorted(boxes.images, found.images, side) for side in ("left", "right"))
    nearest, overlap = np.minimum(first, len(boxes.images) - 1), np.zeros(len(first))
    for turn in range(int((behind - first).max(initial=0))):
        rows = np.flatnonzero(first + turn < behind)
        iou = _iou(found.places[rows], boxes.places[first[rows] + turn])
        better = iou > overlap[rows]
        nearest[rows[better]], overlap[rows[better]] = first[rows[better]] + turn, iou[better]
    return nearest, overlap


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of each of the boxes (n, 4) with its partner; x, y, width, height."""
    sides = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.where((sides > 0).all(1), sides[:, 0] * sides[:, 1], 0.0)
    total = a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3] - shared
    return np.divide(shared, total, out=np.zeros(len(a)), where=shared > 0)
