"""``python -m benchmarks.evaluators``: how long evaluation takes once everything is found, by hotcoco and by the reference.

Drawn boxes and detections; both give the same numbers (tests/engine/test_evaluate.py). ``--reference`` counts with pycocotools
too, which takes minutes at the default size.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdflow.engine.coco import EVALUATORS, HOTCOCO, Found
from kdflow.engine.evaluate import judge


def drawn(images: int, each: int, categories: int, seed: int = 0) -> tuple[dict[str, Any], dict[int, list[Found]]]:
    """Ten objects per image, and ``each`` detections around them."""
    draw = np.random.default_rng(seed)
    boxes: list[dict[str, Any]] = []
    found: dict[int, list[Found]] = {}
    for image in range(1, images + 1):
        corners, sizes = draw.uniform(0, 400, (10, 2)), np.exp(draw.uniform(1, 5.5, (10, 2)))
        labels = draw.integers(1, categories + 1, 10)
        boxes += [
            {"image_id": image, "category_id": int(labels[k]), "bbox": [*corners[k].tolist(), *sizes[k].tolist()]}
            for k in range(10)
        ]
        whose, scores, shift = draw.integers(0, 10, each), draw.random(each), draw.normal(size=(each, 4)) / 10
        found[image] = [
            {
                "image_id": image, "category_id": int(labels[k]), "score": float(score),
                "bbox": [*(corners[k] + move[:2] * sizes[k]).tolist(), *(sizes[k] * np.exp(move[2:])).tolist()],
            }
            for k, score, move in zip(whose, scores, shift, strict=True)
        ]
    named = [{"id": c, "name": str(c)} for c in range(1, categories + 1)]
    listed = [{"id": i, "width": 640, "height": 480} for i in range(1, images + 1)]
    return {"images": listed, "categories": named, "annotations": boxes}, found


def seconds(truth: Mapping[str, Any], found: Mapping[int, Sequence[Found]], evaluator: str) -> float:
    """Wall time of one evaluation."""
    begun = time.perf_counter()
    judge(found, truth, evaluator=evaluator)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--categories", type=int, default=80)
    parser.add_argument("--reference", action="store_true")
    options = parser.parse_args()
    truth, found = drawn(options.images, options.each, options.categories)
    for name in EVALUATORS if options.reference else (HOTCOCO,):
        print(f"{name}: {seconds(truth, found, name):.2f} s")


if __name__ == "__main__":
    main()
