"""Properties of a second ground truth that teachers detect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.ops.regions.merge import merge
from tests.goldens.test_goldens import FOLDER
from tests.methods.shipped import maps, plan_of, terms_of

MERGES = sorted((FOLDER / "teach-detr").glob("merge*.npz"))
TARGETS = [torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.4, 0.3, 0.9, 0.8]]), torch.zeros(0, 4)]
LABELS = [torch.tensor([1, 2]), torch.zeros(0, dtype=torch.long)]
TERMS = ("classes", "boxes", "giou")
LAYERS, QUERIES, CLASSES = 2, 5, 3


def detected(boxes: Tensor, labels: Tensor, scores: Tensor) -> list[dict[str, Tensor]]:
    return [{"boxes": boxes, "labels": labels, "scores": scores}]


@pytest.mark.parametrize("path", MERGES, ids=lambda path: path.stem)
def test_merging_is_the_original_code(path: Path) -> None:
    case = {key: torch.as_tensor(value) for key, value in np.load(path).items()}
    teachers = [key.removesuffix(".labels") for key in case if key.startswith("teacher.") and key.endswith(".labels")]
    found, bonus = [], []
    for name in teachers:
        corner, sides = case[f"{name}.boxes_xywh"].split(2, 1)
        found.append(detected(torch.cat([corner, corner + sides], 1), case[f"{name}.labels"], case[f"{name}.scores"]))
        bonus.append(float(case[f"hp.rank_bonus.{name.split('.')[1]}"]))
    merged = merge(found, [tuple(case["image_size"].tolist())], nms_iou=float(case["hp.nms_iou"]), bonus=tuple(bonus))
    torch.testing.assert_close(merged["boxes"][0], case["expected.merged_boxes_xyxy"])
    assert merged["labels"][0].tolist() == case["expected.merged_labels"].tolist()
    torch.testing.assert_close(merged["scores"][0], case["expected.merged_scores"])


def test_there_is_a_case_of_merging() -> None:
    assert MERGES


def test_a_bonus_changes_the_order_and_no_score() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 29, 29]])
    one = detected(boxes, torch.tensor([0, 0]), torch.tensor([0.9, 0.5]))
    two = detected(boxes + 50, torch.tensor([0, 0]), torch.tensor([0.4, 0.3]))
    (plain,), (raised,) = (merge([one, two], [(99, 99)], bonus=bonus)["scores"] for bonus in ((), (0.0, 1.0)))
    assert plain.tolist() == pytest.approx([0.9, 0.5])
    assert raised.tolist() == pytest.approx([0.4, 0.3])
    (alone,) = merge([one], [(99, 99)])["scores"]
    assert alone.tolist() == pytest.approx([0.9, 0.5])
    with pytest.raises(UsageError, match="2 models"):
        merge([one, two], [(99, 99)], bonus=(0.1,))


def values(scores: list[Tensor]) -> dict[str, Any]:
    logits = maps(*[(2, QUERIES, CLASSES)] * LAYERS)
    boxes = [0.3 + 0.4 * layer.sigmoid() for layer in maps(*[(2, QUERIES, 4)] * LAYERS, seed=1)]
    for value in (*logits, *boxes):
        value.requires_grad_()
    return {
        "student.decoder.logits": logits, "student.decoder.boxes": boxes, "aids.boxes": TARGETS, "aids.labels": LABELS,
        "aids.scores": scores, "image_sizes": [(1, 1)] * 2,
    }


def terms(given: dict[str, Any], **changes: Any) -> list[Tensor]:
    proposals = [f"terms.proposal_{name}" for name in TERMS]
    drop = (*proposals, "nodes.kinds", "nodes.proposed", "nodes.proposal_answers", "nodes.proposal_corners")
    return terms_of(plan_of("teach-detr", given, family="transformer", drop=drop, changes=changes), *TERMS)


def test_certain_boxes_count_like_ground_truth() -> None:
    given = values([torch.ones(2), torch.zeros(0)])
    classes, boxes, giou = terms(given, **{"nodes.wanted.rest": 1.0})
    assert min(float(value.detach()) for value in (classes, boxes, giou)) > 0
    half, _, _ = terms(given)
    assert float(half.detach()) < float(classes.detach())


def test_boxes_without_a_score_teach_only_what_is_none() -> None:
    given = values([torch.zeros(2), torch.zeros(0)])
    classes, boxes, giou = terms(given)
    assert float(boxes.detach()) == 0
    assert float(giou.detach()) == 0
    (grad, *_) = torch.autograd.grad(classes, given["student.decoder.logits"])
    assert int((grad[0].abs().sum(1) == 0).sum()) == 2
    assert float(grad.min()) >= 0


def test_an_image_set_without_boxes_has_no_objects() -> None:
    given = values([torch.zeros(0), torch.zeros(0)])
    given["aids.boxes"], given["aids.labels"] = [torch.zeros(0, 4)] * 2, [LABELS[1]] * 2
    classes, boxes, giou = terms(given)
    assert torch.isfinite(classes)
    assert float(boxes.detach()) == float(giou.detach()) == 0
