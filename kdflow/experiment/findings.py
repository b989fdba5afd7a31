"""What detectors found on a split, kept as files: the student's in its run's folder, a teacher's beside its weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdflow.engine.coco import Found
from kdflow.engine.evaluate import Evaluation
from kdflow.files import read_json, write_text

DETECTIONS = "detections.json"
PLACES, DIGITS = 3, 7
"""Decimals kept of a pixel, and of a score."""


def write_detections(file: Path, evaluation: Evaluation, truth: Mapping[str, Any]) -> Path:
    """Write detections as a COCO document, in pixels of the images on disk and under the ids that the data set gives them.

    Args:
        file: Where to.
        evaluation: The detections that counted.
        truth: Ground truth in COCO's form; its images and categories are written along.
    """
    annotations = [
        {
            **one, "id": number, "bbox": [round(side, PLACES) for side in one["bbox"]], "score": round(one["score"], DIGITS),
            "area": round(one["bbox"][2] * one["bbox"][3], PLACES), "iscrowd": 0,
        }
        for number, one in enumerate(evaluation.detections, start=1)
    ]
    document = {
        "info": {"description": "detections, with their scores"}, "images": truth["images"], "categories": truth["categories"],
        "annotations": annotations, "kdflow": {"metrics": evaluation.metrics, "classes": evaluation.classes},
    }
    return write_text(file, json.dumps(document, ensure_ascii=False, separators=(",", ":")))


@dataclass(frozen=True)
class Findings:
    """Detections read back, with what they were worth when they were written."""

    evaluation: Evaluation
    images: Sequence[Mapping[str, Any]]
    categories: Sequence[Mapping[str, Any]]

    @property
    def by_image(self) -> dict[int, list[Found]]:
        """Image id -> detections; every image has an entry."""
        found: dict[int, list[Found]] = {image["id"]: [] for image in self.images}
        for one in self.evaluation.detections:
            found[one["image_id"]].append(dict(one))
        return found


def read_detections(file: Path, tell: Callable[[str], None] = lambda _: None) -> Findings | None:
    """The content of a file that :func:`write_detections` wrote; None where there is none that can be read."""
    content = read_json(file, tell)
    try:
        kept = content["kdflow"]
        evaluation = Evaluation(dict(kept["metrics"]), dict(kept["classes"]), list(content["annotations"]))
        return Findings(evaluation, content["images"], content["categories"])
    except (KeyError, TypeError, ValueError):
        return None


def never_found(classes: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """A sentence per class that has objects and an AP of 0."""
    for name, numbers in classes.items():
        if numbers.get("objects") and numbers.get("AP") == 0:
            yield f"class {name}: AP 0 on {numbers['objects']:g} objects"
