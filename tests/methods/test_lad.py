"""Properties of the assignment by a model's own losses, of focal targets and of soft labels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdflow.functional.mixtures import two_normals
from kdflow.graph.plan import Plan
from kdflow.ops.losses.focal import focal
from kdflow.ops.regions.probable import probable
from kdflow.ops.transforms.one_hot import one_hot
from tests.methods.shipped import maps, plan_of, terms_of

SIDES, STRIDES = (6, 3), (8, 16)
TARGETS = [torch.tensor([[2.0, 2, 28, 30], [18.0, 14, 46, 44]]), torch.zeros(0, 4)]
LABELS = [torch.tensor([2, 0]), torch.zeros(0, dtype=torch.long)]
CLASSES = 3


def priors() -> list[Tensor]:
    levels = []
    for side, stride in zip(SIDES, STRIDES, strict=True):
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        center = (torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride
        levels.append(torch.cat([center - 4 * stride, center + 4 * stride], 1))
    return levels


def predictions(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    logits = maps(*[(2, side**2, CLASSES) for side in SIDES], seed=seed)
    noise = maps(*[(2, side**2, 4) for side in SIDES], seed=seed + 10)
    return logits, [p + own for p, own in zip(priors(), noise, strict=True)]


def assigned(seed: int = 0) -> dict[str, list[Tensor]]:
    return probable(*predictions(seed), priors(), TARGETS, LABELS)


def plan(slug: str, student: int, teacher: int) -> tuple[Plan, list[Tensor]]:
    given = {"student.head.priors": priors(), "targets.boxes": TARGETS, "targets.labels": LABELS}
    for owner, seed in (("student", student), ("teacher", teacher)):
        logits, boxes = predictions(seed)
        quality = maps(*[(2, side**2) for side in SIDES], seed=seed + 20)
        given |= {f"{owner}.head.logits": logits, f"{owner}.head.boxes": boxes, f"{owner}.head.centerness": quality}
    given["student.assign.weights"] = [torch.ones(2, side**2) for side in SIDES]
    for value in (*given["student.head.logits"], *given["student.head.boxes"], *given["student.head.centerness"]):
        value.requires_grad_()
    return plan_of(slug, given, family="dense"), given["student.head.logits"]


def test_objects_have_a_few_places_and_empty_images_none() -> None:
    found = assigned()
    labels, positive = (torch.cat(found[key], 1) for key in ("labels", "positive"))
    assert (labels == CLASSES).equal(~positive)
    assert not bool(positive[1].any())
    for kind in LABELS[0].tolist():
        assert 1 <= int((labels[0] == kind).sum()) <= 9 * len(SIDES)
    costs = torch.cat(found["costs"], 1)
    assert bool((costs[positive] > 0).all())
    boxes = torch.cat(found["matched_boxes"], 1)
    assert {tuple(box) for box in boxes[positive].tolist()} == {tuple(box) for box in TARGETS[0].tolist()}


def test_what_a_single_candidate_stands_for_has_no_place() -> None:
    logits, boxes = ([level[:1, :1] for level in levels[:1]] for levels in predictions(0))
    found = probable(logits, boxes, [priors()[0][:1]], TARGETS[:1], LABELS[:1])
    assert not bool(found["positive"][0].any())


def test_two_clusters_are_told_apart() -> None:
    cheap, dear = torch.tensor([0.1, 0.12, 0.14, 0.15]), torch.tensor([3.0, 3.1, 3.3])
    values = torch.cat([cheap, dear])[None]
    fit = two_normals(torch.cat([values, values]), torch.tensor([[True] * 7, [True] * 2 + [False] * 5]))
    assert fit.first[0].tolist() == [True] * 4 + [False] * 3
    assert not bool(fit.first[1, 2:].any())
    assert torch.isfinite(fit.log_density).all()


def test_an_object_that_touches_no_prior_changes_nothing() -> None:
    far = [torch.cat([TARGETS[0], torch.tensor([[900.0, 900, 950, 950]])]), TARGETS[1]]
    more = [torch.cat([LABELS[0], torch.tensor([1])]), LABELS[1]]
    assert torch.equal(torch.cat(probable(*predictions(0), priors(), far, more)["labels"], 1), torch.cat(assigned()["labels"], 1))


def test_the_teacher_enters_through_labels_only() -> None:
    built, _ = plan("lad", 0, 1)
    before = terms_of(built, "classes", "boxes", "quality")
    other, _ = plan("lad", 0, 2)
    changed = terms_of(other, "classes", "boxes", "quality")
    assert [float(a.detach()) for a in before] != [float(b.detach()) for b in changed]
    mine, _ = plan("lad", 0, 0)
    labels = mine.evaluate({}, ["assigned.labels"])["assigned.labels"]
    assert torch.equal(torch.cat(labels, 1), torch.cat(assigned(0)["labels"], 1))


def test_focal_loss_is_cross_entropy_where_it_looks_nowhere_away() -> None:
    (logits,) = maps((4, CLASSES))
    answers = one_hot(torch.tensor([0, 2, 3, -1]), logits)
    assert answers.sum(1).tolist() == [1, 1, 0, 0]
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, answers, reduction="none")
    torch.testing.assert_close(focal(logits, answers, alpha=0.5, gamma=0.0), plain / 2)


def test_soft_labels_add_nothing_at_equality() -> None:
    built, _ = plan("solad", 3, 3)
    values = [float(value.detach()) for value in terms_of(built, "soft_classes", "soft_quality", "soft_boxes")]
    assert values == pytest.approx([0, 0, 0], abs=1e-6)
