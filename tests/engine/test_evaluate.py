from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdflow.engine import evaluate as module
from kdflow.engine.coco import EVALUATORS, Precision
from kdflow.engine.evaluate import evaluate, judge, on_host, to_disk, weigh
from kdflow.engine.voc import area, eleven_points, voc_ap50
from kdflow.errors import DataError
from kdflow.ports import Batch


def truth(boxes: Sequence[tuple[int, int, Sequence[float]]], images: int = 2, **extra: Any) -> dict[str, Any]:
    """COCO document of (image id, category id, xywh); categories 3 (cat) and 7 (dog)."""
    return {
        "images": [{"id": i, "height": 100, "width": 200} for i in range(1, images + 1)],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 10 + n, "image_id": i, "category_id": c, "bbox": list(b), "area": b[2] * b[3], "iscrowd": 0, **extra}
            for n, (i, c, b) in enumerate(boxes)
        ],
    }


def found(image: int, category: int, box: Sequence[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


BOX, OTHER = (10.0, 10.0, 20.0, 20.0), (100.0, 50.0, 20.0, 20.0)


def test_perfect_detections_score_100_and_empty_sizes_have_no_key() -> None:
    metrics = judge({1: [found(1, 3, BOX, 0.9)], 2: []}, truth([(1, 3, BOX)]))
    assert metrics == pytest.approx(
        {"AP": 100, "AP50": 100, "AP75": 100, "AP_S": 100, "voc07_ap50": 100, "voc_ap50": 100}
    )


def test_right_wrong_right_by_hand() -> None:
    """Precision 1 up to recall 1/2, 2/3 up to recall 1; COCO reads 101 recalls, VOC 2007 reads 11."""
    detections = {
        1: [found(1, 3, BOX, 0.9), found(1, 3, OTHER, 0.8)],
        2: [found(2, 3, BOX, 0.7)],
    }
    metrics = judge(detections, truth([(1, 3, BOX), (2, 3, BOX)]))
    assert metrics["AP50"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert metrics["AP"] == pytest.approx(metrics["AP50"])
    assert metrics["voc07_ap50"] == pytest.approx(100 * (6 + 5 * 2 / 3) / 11)
    assert metrics["voc_ap50"] == pytest.approx(100 * (0.5 + 0.5 * 2 / 3))


def test_iou_decides_over_the_thresholds() -> None:
    shifted = (10.0, 10.0, 20.0, 20.0 * 0.72)  # IoU 0.72: right for 0.50, 0.55, 0.60, 0.65, 0.70
    metrics = judge({1: [found(1, 3, shifted, 0.9)], 2: []}, truth([(1, 3, BOX)]))
    assert metrics["AP"] == pytest.approx(50)
    assert (metrics["AP50"], metrics["AP75"]) == pytest.approx((100, 0))


def test_sizes_are_judged_apart() -> None:
    small, medium, large = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 50.0, 50.0), (80.0, 0.0, 100.0, 98.0)
    boxes = [(1, 3, small), (1, 3, medium), (1, 3, large)]
    metrics = judge({1: [found(1, 3, small, 0.9), found(1, 3, large, 0.8)], 2: []}, truth(boxes))
    assert (metrics["AP_S"], metrics["AP_M"], metrics["AP_L"]) == pytest.approx((100, 0, 100))


def test_classes_are_averaged_over_those_with_objects() -> None:
    metrics = judge({1: [found(1, 3, BOX, 0.9)], 2: []}, truth([(1, 3, BOX), (2, 7, BOX)]))
    assert metrics["AP50"] == pytest.approx(50)
    assert metrics["voc_ap50"] == pytest.approx(50)


def test_second_detection_of_one_box_is_wrong() -> None:
    twice = {1: [found(1, 3, BOX, 0.9), found(1, 3, BOX, 0.8)], 2: [found(2, 3, BOX, 0.7)]}
    metrics = judge(twice, truth([(1, 3, BOX), (2, 3, BOX)]))
    assert metrics["AP50"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert metrics["voc_ap50"] == pytest.approx(100 * 5 / 6)


@pytest.mark.parametrize("mark", ["iscrowd", "difficult", "ignore"])
def test_ignored_boxes_are_neither_found_nor_missed(mark: str) -> None:
    document = truth([(1, 3, BOX), (1, 3, OTHER)])
    document["annotations"][1][mark] = 1
    hit = judge({1: [found(1, 3, OTHER, 0.9), found(1, 3, OTHER, 0.85), found(1, 3, BOX, 0.8)], 2: []}, document)
    assert (hit["AP50"], hit["voc07_ap50"], hit["voc_ap50"]) == pytest.approx((100, 100, 100))
    missed = judge({1: [found(1, 3, BOX, 0.8)], 2: []}, document)
    assert missed["AP50"] == pytest.approx(100)


def test_only_the_best_detections_of_an_image_count() -> None:
    document = truth([(1, 3, BOX)])
    detections = {1: [found(1, 3, BOX, 0.1), found(1, 3, OTHER, 0.9)], 2: []}
    assert judge(detections, document, max_detections=2)["AP50"] == pytest.approx(50)
    assert judge(detections, document, max_detections=1)["AP50"] == pytest.approx(0)


def crowded(classes: Sequence[int] = (3, 5, 7), each: int = 50) -> tuple[dict[str, Any], dict[int, list[dict[str, Any]]]]:
    """One image with ``each`` boxes of each class, and its perfect detections, one class scored after another."""
    boxes = [
        (1, category, (float(10 * (n % 20)), float(10 * (n // 20)), 8.0, 8.0))
        for n, category in enumerate(category for category in classes for _ in range(each))
    ]
    document = truth(boxes, images=1)
    document["categories"] = [{"id": category, "name": str(category)} for category in classes]
    return document, {1: [found(*box, 1 - n / 1000) for n, box in enumerate(boxes)]}


def test_a_class_is_not_cut_for_the_detections_of_others() -> None:
    document, detections = crowded()
    metrics = judge(detections, document)
    assert (metrics["AP"], metrics["AP50"], metrics["voc_ap50"]) == pytest.approx((100, 100, 100))


@pytest.mark.parametrize("limit", [10, 40, 100, 120])
def test_more_detections_than_the_limit_give_what_pycocotools_gives(limit: int) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    document, detections = crowded(each=120)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {**document, "annotations": [{**row, "id": row["id"]} for row in document["annotations"]]}
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(detections[1]), "bbox")
        evaluation.params.maxDets = [limit]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    expected = 100 * precision[precision > -1].mean()
    assert judge(detections, document, limit)["AP"] == pytest.approx(expected)
    assert (expected > 99) == (limit >= 120)


def test_a_detector_hands_over_all_it_finds() -> None:
    document, detections = crowded()
    boxes = [one["bbox"] for one in detections[1]]
    answers = [
        ([x / 4, y / 2, (x + w) / 4, (y + h) / 2], one["score"], one["category_id"])
        for one, (x, y, w, h) in zip(detections[1], boxes)
    ]
    detector = Scripted([[(box, score, (3, 5, 7).index(label)) for box, score, label in answers]])
    detector.classes = ("3", "5", "7")  # type: ignore[assignment]
    assert evaluate(detector, [batch([1])], document)["AP"] == pytest.approx(100)  # type: ignore[arg-type]


def test_nothing_found_scores_zero() -> None:
    metrics = judge({1: [], 2: []}, truth([(1, 3, BOX)]))
    assert set(metrics.values()) == {0.0}


def test_ground_truth_is_not_written_to_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    document = truth([(1, 3, BOX)])
    before = repr(document)
    judge({1: [found(1, 3, BOX, 0.9)], 2: []}, document)
    assert repr(document) == before
    assert capsys.readouterr().out == ""


def test_eleven_points_and_area_by_hand() -> None:
    recall, precision = np.array([0.25, 0.25, 0.5]), np.array([1.0, 0.5, 2 / 3])
    assert eleven_points(recall, precision) == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)
    assert area(recall, precision) == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)


def test_voc_gives_a_detection_to_the_box_it_overlaps_most() -> None:
    near = (12.0, 10.0, 20.0, 20.0)
    document = truth([(1, 3, BOX), (1, 3, near)])
    both_nearest_to_one = [found(1, 3, BOX, 0.9), found(1, 3, (10.5, 10.0, 20.0, 20.0), 0.8)]
    assert voc_ap50(document, both_nearest_to_one)["voc_ap50"] == pytest.approx(0.5)


def test_voc_detection_that_misses_does_not_take_the_box() -> None:
    near_miss = [BOX[0] + BOX[2] * 0.8, BOX[1], BOX[2], BOX[3]]
    metrics = voc_ap50(truth([(1, 3, BOX)]), [found(1, 3, near_miss, 0.9), found(1, 3, BOX, 0.8)])
    assert metrics["voc_ap50"] == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(5))
def test_both_metrics_agree_on_boxes_that_stand_apart(seed: int) -> None:
    """With one box per detection to choose from, COCO and VOC judge alike; they read the same curve at 101 recalls and at all."""
    draw = np.random.default_rng(seed)
    corners = [(x, y) for x in (0, 50, 100, 150) for y in (0, 50)]
    boxes = [
        (image, int(draw.choice([3, 7])), (*c, 30, 30))
        for image in range(1, 41)
        for c in corners
        if draw.random() < 0.6
    ]
    detections: dict[int, list[dict[str, Any]]] = {image: [] for image in range(1, 41)}
    for image, category, (x, y, *_) in boxes:
        for _ in range(draw.integers(0, 3)):  # missed, found, found twice; well, badly, or not at all
            dx, dy = draw.uniform(0, 10, 2)
            detections[image].append(found(image, category, (x + dx, y + dy, 30, 30), float(draw.random())))
    metrics = judge(detections, truth(boxes, images=40))
    assert 5 < metrics["AP50"] < 95
    assert metrics["voc_ap50"] == pytest.approx(metrics["AP50"], abs=1.0)


def test_voc_has_no_value_without_objects() -> None:
    assert voc_ap50(truth([]), [found(1, 3, BOX, 0.9)]) == {}


def test_boxes_return_to_pixels_on_disk() -> None:
    boxes = torch.tensor([[10.0, 20.0, 50.0, 40.0], [-5.0, 0.0, 90.0, 60.0]])
    back = to_disk(boxes, size=(50, 80), original=(100, 320))
    assert back.tolist() == [[40.0, 40.0, 200.0, 80.0], [0.0, 0.0, 320.0, 100.0]]


class Scripted:
    """A detector that answers from a script."""

    name, family, library = "scripted", "dense", "none"
    classes = ("cat", "dog")

    def __init__(self, answers: Sequence[Sequence[tuple[Sequence[float], float, int]]]) -> None:
        self.model = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
        self.model[1].eval()
        self.answers = list(answers)
        self.modes: list[bool] = []

    def predict(self, images: Tensor, image_sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        self.modes.append(self.model.training)
        results = [self.answers.pop(0) for _ in image_sizes]
        return [
            {
                "boxes": torch.tensor([list(b) for b, _, _ in r]).reshape(-1, 4),
                "scores": torch.tensor([s for _, s, _ in r]),
                "labels": torch.tensor([label for _, _, label in r], dtype=torch.int64),
            }
            for r in results
        ]


def batch(ids: Sequence[int]) -> Batch:
    n = len(ids)
    return Batch(
        torch.zeros(n, 3, 64, 64),
        [(50, 50)] * n,
        [torch.zeros(0, 4)] * n,
        [torch.zeros(0, dtype=torch.int64)] * n,
        list(ids),
        [(100, 200)] * n,
    )


def test_detector_is_judged_on_disk_pixels_with_categories_by_name() -> None:
    resized = (2.5, 5.0, 7.5, 15.0)  # BOX as xyxy (10, 10, 30, 30), through 200 x 100 -> 50 x 50
    detector = Scripted([[(resized, 0.9, 0)], [(resized, 0.8, 1)]])
    metrics = evaluate(detector, [batch([1]), batch([2])], truth([(1, 3, BOX), (2, 7, BOX)]))  # type: ignore[arg-type]
    assert metrics["AP"] == pytest.approx(100)
    assert detector.modes == [False, False]
    assert [m.training for m in detector.model.modules()] == [True, True, False]  # as it was found


def test_image_seen_by_two_processes_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    box = (2.5, 5.0, 7.5, 15.0)
    wrong = (20.0, 5.0, 30.0, 15.0)
    other = {1: [found(1, 3, BOX, 0.95)], 2: [found(2, 3, BOX, 0.8)]}
    monkeypatch.setattr(module.ranks, "gather", lambda mine: [mine, other])
    detector = Scripted([[(box, 0.9, 0), (wrong, 0.5, 0)]])
    metrics = evaluate(detector, [batch([1])], truth([(1, 3, BOX), (2, 3, BOX)]))  # type: ignore[arg-type]
    assert metrics["AP"] == pytest.approx(100)


def test_missing_and_unknown_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"saw 1 images, the ground truth has 2: 1 never came \(first: \[2\]\)"):
        evaluate(Scripted([[]]), [batch([1])], truth([(1, 3, BOX)]))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"1 are unknown \(\[9\]\)"):
        judge({1: [], 2: [], 9: []}, truth([(1, 3, BOX)]))


def test_other_classes_are_refused_with_both_lists() -> None:
    detector = Scripted([])
    detector.classes = ("cat", "horse")  # type: ignore[assignment]
    with pytest.raises(DataError, match="detector has cat, horse; data has dog, cat"):
        evaluate(detector, [], truth([]))  # type: ignore[arg-type]


def test_each_class_has_its_own_numbers_and_they_average_to_the_whole() -> None:
    boxes = [(1, 3, BOX), (2, 7, BOX), (2, 7, OTHER)]
    done = weigh({1: [found(1, 3, BOX, 0.9)], 2: [found(2, 7, BOX, 0.8), found(2, 3, OTHER, 0.7)]}, truth(boxes))
    assert list(done.classes) == ["dog", "cat"]
    assert {name: one["objects"] for name, one in done.classes.items()} == {"dog": 2, "cat": 1}
    assert done.classes["cat"]["AP"] == pytest.approx(100)
    assert 0 < done.classes["dog"]["AP"] < 100
    assert done.metrics["AP"] == pytest.approx((done.classes["cat"]["AP"] + done.classes["dog"]["AP"]) / 2)
    assert len(done.detections) == 3


def test_a_class_without_objects_has_no_ap_and_one_that_is_never_found_has_0() -> None:
    done = weigh({1: [found(1, 3, BOX, 0.9)], 2: []}, truth([(1, 7, OTHER)]))
    assert done.classes["cat"] == {"objects": 0}
    assert done.classes["dog"]["AP"] == 0


def drawn(seed: int, *, images: int = 40, categories: int = 6, tied: bool = False) -> tuple[dict[str, Any], list[Any]]:
    """Drawn boxes of all sizes, a tenth of them crowds, some images and a category without any, and detections around them."""
    draw = np.random.default_rng(seed)
    boxes, detections = [], []
    for image in range(1, images + 1):
        for _ in range(draw.integers(0, 12)):
            x, y = draw.uniform(0, 400, 2)
            w, h = np.exp(draw.uniform(1, 5.5, 2))
            category = int(draw.integers(1, categories))
            boxes.append({
                "id": len(boxes) + 1, "image_id": image, "category_id": category, "bbox": [x, y, w, h], "area": w * h,
                "iscrowd": int(draw.random() < 0.1),
            })
            for _ in range(3):
                score = round(float(draw.random()), 1 if tied else 12)
                near = [x + draw.normal() * w / 9, y + draw.normal() * h / 9, *([w, h] * draw.uniform(0.8, 1.2, 2))]
                other = category if draw.random() < 0.8 else int(draw.integers(1, categories))
                detections.append(found(image, other, near, score))
    listed = {
        "images": [{"id": i, "width": 640, "height": 480} for i in range(1, images + 1)],
        "categories": [{"id": c, "name": str(c)} for c in range(1, categories + 1)],
        "annotations": boxes,
    }
    return listed, detections


@pytest.mark.parametrize("limit", [1, 10, 100])
@pytest.mark.parametrize(("seed", "tied"), [(0, False), (1, False), (2, True), (3, True)])
def test_hotcoco_counts_as_the_reference_does(seed: int, tied: bool, limit: int) -> None:
    """Every precision of every threshold, recall, category and size, so all statistics made of them."""
    listed, detections = drawn(seed, tied=tied)
    own, reference = (Precision.of(listed, detections, limit, name) for name in ("hotcoco", "pycocotools"))
    assert (own.values == reference.values).all()
    assert (own.thresholds == reference.thresholds).all()
    assert (own.recalls == reference.recalls).all()
    assert (own.categories, own.sizes) == (reference.categories, reference.sizes)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_both_evaluators_take_what_is_empty_or_large(evaluator: str) -> None:
    ids = (0, 2**53 - 1, 5)
    listed = {
        "images": [{"id": i, "width": 64, "height": 64} for i in ids], "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"image_id": 2**53 - 1, "category_id": 3, "bbox": list(BOX)}],
    }
    assert judge({i: [] for i in ids}, listed, evaluator=evaluator)["AP"] == 0
    hit = {i: [found(i, 3, BOX, 0.5)] if i == 2**53 - 1 else [] for i in ids}
    assert judge(hit, listed, evaluator=evaluator)["AP"] == pytest.approx(100)
    assert judge({i: [] for i in ids}, {**listed, "annotations": []}, evaluator=evaluator) == {}


def test_one_copy_brings_over_what_a_batch_has() -> None:
    """Values as they were, image by image; one without detections stays empty."""
    results = [
        {"boxes": torch.rand(2, 4), "scores": torch.rand(2), "labels": torch.tensor([0, 79])},
        {"boxes": torch.rand(0, 4), "scores": torch.rand(0), "labels": torch.zeros(0, dtype=torch.int64)},
        {"boxes": torch.rand(1, 4), "scores": torch.rand(1), "labels": torch.tensor([3])},
    ]
    for (boxes, scores, labels), one in zip(on_host(results), results, strict=True):
        assert boxes.float().equal(one["boxes"])
        assert scores.tolist() == one["scores"].tolist()
        assert labels.tolist() == one["labels"].tolist()


def test_a_score_that_is_no_number_is_no_detection() -> None:
    one = {"boxes": torch.rand(2, 4), "scores": torch.tensor([float("nan"), 0.5]), "labels": torch.tensor([0, 1])}
    ((boxes, scores, labels),) = on_host([one])
    assert (len(boxes), scores.tolist(), labels.tolist()) == (1, [0.5], [1])


def shaped_like_coco(seed: int, images: int = 60) -> tuple[dict[str, Any], list[Any]]:
    """80 classes of which few are frequent, seven objects in a picture and many more detections than that, most of them wrong."""
    draw = np.random.default_rng(seed)
    often = 1 / np.arange(1, 81)
    boxes, detections = [], []
    for image in range(1, images + 1):
        for label in draw.choice(80, draw.poisson(7), p=often / often.sum()):
            size = np.minimum(np.exp(draw.normal(4, 1.1, 2)), (600, 440))
            corner = draw.uniform(0, (640, 480) - size)
            crowd = int(draw.random() < 0.01)
            boxes.append({
                "id": len(boxes) + 1, "image_id": image, "category_id": int(label) + 1, "iscrowd": crowd,
                "bbox": [*corner.tolist(), *size.tolist()], "area": float(size.prod() * draw.uniform(0.3, 1)),
            })
            if draw.random() < 0.8:
                near = [*(corner + draw.normal(size=2) * size / 12).tolist(), *(size * draw.uniform(0.85, 1.15, 2)).tolist()]
                detections.append(found(image, int(label) + 1, near, float(draw.beta(4, 2))))
        for label in draw.choice(80, 60, p=often / often.sum()):
            wrong = [*draw.uniform(0, 400, 2).tolist(), *np.exp(draw.normal(3.5, 1, 2)).tolist()]
            detections.append(found(image, int(label) + 1, wrong, float(draw.beta(1, 6))))
    listed = {
        "images": [{"id": i, "width": 640, "height": 480} for i in range(1, images + 1)],
        "categories": [{"id": c, "name": str(c)} for c in range(1, 81)],
        "annotations": boxes,
    }
    return listed, detections


def twelve(library: Any, coco: Any, results: Any) -> list[float]:
    evaluation = library.COCOeval(coco, results, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return list(map(float, evaluation.stats))


@pytest.mark.parametrize("make", [drawn, shaped_like_coco])
def test_all_twelve_statistics_are_the_references(make: Any) -> None:
    import hotcoco
    import pycocotools.cocoeval
    from pycocotools.coco import COCO

    truth, detections = make(5)
    reference = COCO()
    reference.dataset = truth
    reference.createIndex()
    expected = twelve(pycocotools.cocoeval, reference, reference.loadRes([dict(one) for one in detections]))
    own = hotcoco.COCO(truth)
    stats = twelve(hotcoco, own, own.loadRes(list(detections)))
    assert len(stats) == 12
    assert stats == pytest.approx(expected, abs=1e-9)
    assert 0 < expected[0] < 1
