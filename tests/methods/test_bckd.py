"""Properties of BCKD."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.methods.shipped import maps, plan_of, terms_of

LOGITS = ((2, 20, 3), (2, 6, 3))


def boxes(seed: int, grad: bool = False) -> list[Tensor]:
    found = []
    for corner in maps((2, 20, 2), (2, 6, 2), seed=seed):
        found.append(torch.cat([corner * 5, corner * 5 + 20 + corner.abs()], dim=-1).requires_grad_(grad))
    return found


def terms(**given: Any) -> list[Tensor]:
    positive = [torch.zeros(2, 20) > 0, torch.zeros(2, 6) > 0]
    positive[0][0, :5] = True
    positive[1][1, 2] = True
    base = {
        "student.head.logits": maps(*LOGITS), "teacher.head.logits": maps(*LOGITS, seed=1),
        "student.head.boxes": boxes(2), "teacher.head.boxes": boxes(3),
        "student.assign.positive": positive, "student.assign.weights": [torch.ones(2, 20), torch.ones(2, 6)],
    }
    return terms_of(plan_of("bckd", base | given, family="dense"), "classes", "boxes")


def test_equal_scores_give_zero_wherever_the_boxes_are() -> None:
    assert [float(v) for v in terms(**{"student.head.logits": maps(*LOGITS, seed=1)})] == [0, 0]


def test_the_order_of_classes_does_not_matter() -> None:
    swapped = {f"{o}.head.logits": [x.flip(2) for x in maps(*LOGITS, seed=s)] for o, s in (("student", 0), ("teacher", 1))}
    torch.testing.assert_close(torch.stack(terms(**swapped)), torch.stack(terms()))


def test_each_term_trains_its_own_branch() -> None:
    logits, places = maps(*LOGITS, grad=True), boxes(2, grad=True)
    classes, regression = terms(**{"student.head.logits": logits, "student.head.boxes": places})
    assert all(g is None for g in torch.autograd.grad(classes, places, allow_unused=True, retain_graph=True))
    assert all(g is None for g in torch.autograd.grad(regression, logits, allow_unused=True, retain_graph=True))
    assert all(g.any() for g in torch.autograd.grad(classes, logits))
    assert all(g.any() for g in torch.autograd.grad(regression, places))


def test_a_repeated_batch_gives_the_same_values() -> None:
    positive = [torch.zeros(2, 20) > 0, torch.zeros(2, 6) > 0]
    positive[0][:, :5] = True
    given: dict[str, Any] = {"student.assign.positive": positive}
    repeated = {
        "student.head.logits": maps(*LOGITS), "teacher.head.logits": maps(*LOGITS, seed=1), "student.head.boxes": boxes(2),
        "teacher.head.boxes": boxes(3), "student.assign.weights": [torch.ones(2, 20), torch.ones(2, 6)], **given,
    }
    twice = terms(**{name: [torch.cat([x, x]) for x in value] for name, value in repeated.items()})
    torch.testing.assert_close(torch.stack(twice), torch.stack(terms(**given)))


def test_levels_without_positives_and_padding_are_left_out() -> None:
    positive = [torch.zeros(2, 20) > 0, torch.zeros(2, 6) > 0]
    positive[0][0, :5] = True
    weights = [torch.ones(2, 20), torch.ones(2, 6)]
    weights[0][1] = 0
    logits = maps(*LOGITS, grad=True)
    given = {"student.head.logits": logits, "student.assign.positive": positive, "student.assign.weights": weights}
    fine, coarse = torch.autograd.grad(terms(**given)[0], logits)
    assert not coarse.any()
    assert not fine[1].any()
    assert fine[0].all()
