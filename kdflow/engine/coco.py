"""COCO's precisions of detections, by the reference (pycocotools) or by hotcoco, which gives the same numbers much sooner."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Found = dict[str, Any]
"""One detection as COCO writes it: image_id, category_id, bbox (x, y, width, height in pixels on disk), score."""
Judged = tuple[np.ndarray, Any]
"""Precisions, and the parameters that they were counted with, under pycocotools' names."""
HOTCOCO = "hotcoco"


def by_pycocotools(truth: Mapping[str, Any], found: Sequence[Found], max_detections: int) -> Judged:
    """The reference."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco, results = COCO(), COCO()
    coco.dataset = truth
    coco.createIndex()
    results.dataset = {**truth, "annotations": [
        {**one, "id": number, "area": one["bbox"][2] * one["bbox"][3], "iscrowd": 0} for number, one in enumerate(found, start=1)
    ]}
    results.createIndex()
    return _counted(COCOeval(coco, results, "bbox"), max_detections)


def by_hotcoco(truth: Mapping[str, Any], found: Sequence[Found], max_detections: int) -> Judged:
    """The same counted by a compiled library."""
    from hotcoco import COCO, COCOeval

    coco = COCO(dict(truth))
    return _counted(COCOeval(coco, coco.loadRes(list(found)), "bbox"), max_detections)


def _counted(evaluation: Any, max_detections: int) -> Judged:
    evaluation.params.maxDets = [max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), evaluation.params


EVALUATORS: Mapping[str, Callable[[Mapping[str, Any], Sequence[Found], int], Judged]] = {
    HOTCOCO: by_hotcoco, "pycocotools": by_pycocotools,
}


@dataclass(frozen=True)
class Precision:
    """COCO's precisions.

    Attributes:
        values: (thresholds, recalls, categories, sizes, 1); -1 where a category has no object of a size.
        thresholds: IoU thresholds.
        recalls: Recalls in 0..1.
        categories: Category ids.
        sizes: ``all``, ``small``, ``medium``, ``large``.
    """

    values: np.ndarray
    thresholds: np.ndarray
    recalls: np.ndarray
    categories: tuple[int, ...]
    sizes: tuple[str, ...]

    @classmethod
    def of(cls, truth: dict[str, Any], found: Sequence[Found], max_detections: int, evaluator: str = HOTCOCO) -> Precision:
        """Precisions of detections, by ``hotcoco`` or ``pycocotools``; ``truth`` has every field that they read."""
        with contextlib.redirect_stdout(io.StringIO()):
            values, params = EVALUATORS[evaluator](truth, found, max_detections)
        return cls(values, np.array(params.iouThrs), np.array(params.recThrs), tuple(params.catIds), tuple(params.areaRngLbl))

    def of_class(self, category: int) -> Precision:
        """Those of one category."""
        chosen = self.categories.index(category)
        return replace(self, values=self.values[:, :, chosen : chosen + 1], categories=(category,))

    def curve(self, iou: float = 0.5) -> np.ndarray:
        """(recalls,) precision at the recalls, averaged over categories with objects; all -1 without any."""
        level = self.values[self._at(iou), :, :, self.sizes.index("all"), 0]
        known = level[:, (level > -1).all(axis=0)]
        return known.mean(axis=1) if known.size else np.full(len(self.recalls), -1.0)

    def summary(self) -> dict[str, float]:
        """The AP family in 0..1; a size without objects is absent."""
        everything = self.sizes.index("all")
        picked = {
            "AP": self.values[..., everything, 0],
            "AP50": self.values[self._at(0.5), ..., everything, 0],
            "AP75": self.values[self._at(0.75), ..., everything, 0],
            "AP_S": self.values[..., self.sizes.index("small"), 0],
            "AP_M": self.values[..., self.sizes.index("medium"), 0],
            "AP_L": self.values[..., self.sizes.index("large"), 0],
        }
        return {name: float(values[values > -1].mean()) for name, values in picked.items() if (values > -1).any()}

    def _at(self, iou: float) -> int:
        return int(np.argmin(np.abs(self.thresholds - iou)))
