"""Average precision of a detector: COCO's family and VOC's at 0.5.

All values are in percent. Detections are found on the resized and padded input and judged on the images as they are on disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kdflow.engine import ranks
from kdflow.engine.coco import HOTCOCO, Found, Precision
from kdflow.engine.protocols import Metrics
from kdflow.engine.voc import voc_ap50
from kdflow.errors import DataError
from kdflow.ports import Batch, Detector


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation brought.

    Attributes:
        metrics: See :func:`evaluate`.
        classes: Class -> ``objects`` (a number; crowds and difficult ones do not count), and where it has any the AP family of
            :func:`evaluate` without VOC's, in percent.
        detections: The detections that counted; with several processes only the first one has them.
    """

    metrics: Metrics
    classes: Mapping[str, Mapping[str, float]]
    detections: Sequence[Found] = field(default=(), repr=False)


def evaluate(
    detector: Detector,
    loader: Iterable[Batch],
    ground_truth: Mapping[str, Any],
    *,
    device: torch.device | str = "cpu",
    max_detections: int = 100,
    evaluator: str = HOTCOCO,
) -> Metrics:
    """Run ``detector`` over ``loader`` and judge what it finds.

    With several processes each runs over its own loader; an image that more than one of them has seen counts once, and every
    process receives the same result.

    Args:
        detector: Put into evaluation mode for the time of the call.
        loader: One pass; every image of the ground truth must come, in whichever process.
        ground_truth: A COCO document: ``images``, ``categories``, ``annotations``. ``iscrowd``, ``ignore`` and ``difficult``
            boxes are neither found nor missed.
        device: Where the batches are sent.
        max_detections: Best-scored detections counted per image and class, as pycocotools counts them.
        evaluator: ``hotcoco``, or the reference ``pycocotools``; their numbers are equal.

    Returns:
        ``AP`` (mean over IoU 0.50:0.95), ``AP50``, ``AP75``, ``AP_S``, ``AP_M``, ``AP_L``, ``voc07_ap50`` (11 points) and
        ``voc_ap50`` (area), in percent. A size without objects has no key.

    Raises:
        DataError: The detector's classes are not the categories, or images are missing or unknown.
    """
    return examine(detector, loader, ground_truth, device=device, max_detections=max_detections, evaluator=evaluator).metrics


@torch.no_grad()
def examine(
    detector: Detector,
    loader: Iterable[Batch],
    ground_truth: Mapping[str, Any],
    *,
    device: torch.device | str = "cpu",
    max_detections: int = 100,
    evaluator: str = HOTCOCO,
) -> Evaluation:
    """The same as :func:`evaluate`, with what was found and how each class fared."""
    detections = _detect(detector, loader, category_ids(detector.classes, ground_truth), device)
    everywhere: dict[int, list[Found]] = {}
    for part in ranks.gather(detections):
        for image_id, found in part.items():
            everywhere.setdefault(image_id, found)
    # One process judges; the others wait for its word.
    done = weigh(everywhere, ground_truth, max_detections, evaluator) if ranks.rank() == 0 else None
    metrics, classes = ranks.from_first((done.metrics, done.classes) if done is not None else ({}, {}))
    return done if done is not None else Evaluation(metrics, classes)


def judge(
    detections: Mapping[int, Sequence[Found]],
    ground_truth: Mapping[str, Any],
    max_detections: int = 100,
    evaluator: str = HOTCOCO,
) -> Metrics:
    """Metrics of ``detections`` (image id -> detections; an image without any has an empty list); see :func:`evaluate`."""
    return weigh(detections, ground_truth, max_detections, evaluator).metrics


def weigh(
    detections: Mapping[int, Sequence[Found]],
    ground_truth: Mapping[str, Any],
    max_detections: int = 100,
    evaluator: str = HOTCOCO,
) -> Evaluation:
    """What ``detections`` are worth, over all classes and for each of them; see :func:`judge`."""
    _check_images(detections, ground_truth)
    truth = complete(ground_truth)
    found = [one for image_id in sorted(detections) for one in _best(detections[image_id], max_detections)]
    precision = Precision.of(truth, found, max_detections, evaluator)
    metrics = {**precision.summary(), **voc_ap50(truth, found)}
    return Evaluation(_percent(metrics), _by_class(truth, precision), found)


def _percent(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: 100 * value for name, value in metrics.items()}


def _by_class(truth: Mapping[str, Any], precision: Precision) -> dict[str, dict[str, float]]:
    objects = Counter(one["category_id"] for one in truth["annotations"] if not one["iscrowd"])
    return {
        category["name"]: {"objects": objects[category["id"]], **_percent(precision.of_class(category["id"]).summary())}
        for category in truth["categories"]
    }


def _detect(
    detector: Detector, loader: Iterable[Batch], category_ids: Sequence[int], device: Any
) -> dict[int, list[Found]]:
    was_training = {m: m.training for m in detector.model.modules()}
    detector.model.eval()
    found: dict[int, list[Found]] = {}
    try:
        for batch in loader:
            batch = batch.to(device)
            results = on_host(detector.predict(batch.images, batch.image_sizes))
            for index, (boxes, scores, labels) in enumerate(results):
                boxes = to_disk(boxes, batch.image_sizes[index], batch.original_sizes[index])
                rows = zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
                found.setdefault(batch.image_ids[index], [
                    as_coco(batch.image_ids[index], category_ids[label], box, score) for box, score, label in rows
                ])
    finally:
        for module, mode in was_training.items():
            module.training = mode
    return found


def on_host(results: Sequence[Mapping[str, Tensor]]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes (n, 4), scores (n) and labels (n) of each image, in double precision, brought over by one copy for all.

    What has no number as its score is left out.
    """
    counts = [len(one["scores"]) for one in results]
    rows = [torch.column_stack([one[key].double() for key in ("boxes", "scores", "labels")]) for one in results]
    everything = torch.cat(rows).detach().cpu()
    parts = [part[~part[:, 4].isnan()] for part in everything.split(counts)]
    return [(part[:, :4], part[:, 4], part[:, 5].long()) for part in parts]


def to_disk(boxes: Tensor, size: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Boxes (n, 4) xyxy from pixels of the padded input to pixels of the image on disk, clipped to it.

    Args:
        boxes: xyxy, pixels of the padded input.
        size: (height, width) of the resized image inside the canvas.
        original: (height, width) on disk.
    """
    boxes = boxes.detach().double()
    scale = boxes.new_tensor([original[1] / size[1], original[0] / size[0]]).repeat(2)
    limit = boxes.new_tensor([original[1], original[0]]).repeat(2)
    return (boxes * scale).clamp(min=0).minimum(limit)


def as_coco(image_id: int, category_id: int, box: Sequence[float], score: float) -> Found:
    """A detection (xyxy, pixels on disk) as COCO writes it."""
    x1, y1, x2, y2 = box
    return {"image_id": image_id, "category_id": category_id, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}


def _best(found: Sequence[Found], limit: int) -> list[Found]:
    """The best-scored ``limit`` detections of each class: one image's, best first."""
    taken: Counter[int] = Counter()
    best = []
    for one in sorted(found, key=lambda one: -one["score"]):
        taken[one["category_id"]] += 1
        if taken[one["category_id"]] <= limit:
            best.append(one)
    return best


def category_ids(classes: Sequence[str], ground_truth: Mapping[str, Any]) -> list[int]:
    """COCO category id of each label, matched by name; DataError where the names are others."""
    ids = {category["name"]: category["id"] for category in ground_truth["categories"]}
    if set(ids) != set(classes):
        raise DataError(
            "the detector's classes are not the data's: "
            f"detector has {', '.join(classes)}; data has {', '.join(ids)}"
        )
    return [ids[name] for name in classes]


def _check_images(detections: Mapping[int, object], ground_truth: Mapping[str, Any]) -> None:
    known = {image["id"] for image in ground_truth["images"]}
    missing, strange = known - detections.keys(), detections.keys() - known
    if missing or strange:
        raise DataError(
            f"evaluation saw {len(detections)} images, the ground truth has {len(known)}: "
            f"{len(missing)} never came (first: {sorted(missing)[:3]}), {len(strange)} are unknown ({sorted(strange)[:3]})"
        )


def complete(ground_truth: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with the optional fields filled in; evaluators write into the annotations they are given."""
    annotations = []
    for number, entry in enumerate(ground_truth["annotations"], start=1):
        width, height = entry["bbox"][2:]
        ignored = any(entry.get(key) for key in ("iscrowd", "ignore", "difficult"))
        annotations.append({
            "image_id": entry["image_id"], "category_id": entry["category_id"], "bbox": list(entry["bbox"]),
            "id": number, "area": entry.get("area", width * height), "iscrowd": int(ignored),
        })
    return {"images": ground_truth["images"], "categories": ground_truth["categories"], "annotations": annotations}
