"""Properties of YOLOv6's self-distillation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.graph.plan import Plan
from tests.methods.shipped import maps, plan_of, terms_of

LOGITS = ((2, 6, 3), (2, 2, 3))
EDGES = ((2, 6, 20), (2, 2, 20))


def plan(**given: Any) -> Plan:
    positive = [torch.zeros(2, 6) > 0, torch.zeros(2, 2) > 0]
    positive[0][0, 1:3] = True
    base = {
        "student.head.logits": maps(*LOGITS), "teacher.head.logits": maps(*LOGITS, seed=1),
        "student.head.distribution": maps(*EDGES, seed=2), "teacher.head.distribution": maps(*EDGES, seed=3),
        "student.assign.positive": positive,
    }
    return plan_of("yolov6", base | given, family="dense")


def terms(**given: Any) -> list[Tensor]:
    return terms_of(plan(**given), "classes", "edges")


def test_the_same_model_gives_zero() -> None:
    classes, edges = terms(**{"student.head.logits": maps(*LOGITS, seed=1), "student.head.distribution": maps(*EDGES, seed=3)})
    assert float(classes) == pytest.approx(0, abs=1e-4)
    assert float(edges) == pytest.approx(0, abs=1e-4)


def test_a_shift_of_a_distribution_changes_nothing_and_one_of_the_class_scores_does() -> None:
    theirs, edge = maps(*EDGES, seed=3), torch.arange(4.0).repeat_interleave(5)
    _, edges = terms(**{"student.head.distribution": [m + edge for m in theirs], "teacher.head.distribution": theirs})
    assert float(edges) == pytest.approx(0, abs=1e-4)
    assert float(terms(**{"student.head.logits": [m + 2 for m in maps(*LOGITS, seed=1)]})[0]) > 0.01


def test_distributions_are_learned_at_positives_and_none_is_fine() -> None:
    edges = maps(*EDGES, seed=2, grad=True)
    grads = torch.autograd.grad(terms(**{"student.head.distribution": edges})[1], edges)
    assert grads[0][0, 1:3].any()
    assert not grads[0][0, 3:].any()
    assert not grads[1].any()
    none = [torch.zeros(2, 6) > 0, torch.zeros(2, 2) > 0]
    assert float(terms(**{"student.assign.positive": none})[1]) == 0


def test_a_batch_twice_over_doubles_the_class_term_alone() -> None:
    given = {
        "student.head.logits": maps(*LOGITS), "teacher.head.logits": maps(*LOGITS, seed=1),
        "student.head.distribution": maps(*EDGES, seed=2), "teacher.head.distribution": maps(*EDGES, seed=3),
        "student.assign.positive": [torch.ones(2, 6) > 0, torch.zeros(2, 2) > 0],
    }
    once = terms(**given)
    twice = terms(**{name: [torch.cat([x, x]) for x in value] for name, value in given.items()})
    torch.testing.assert_close(torch.stack(twice), torch.stack(once) * torch.tensor([2.0, 1.0]))


@pytest.mark.parametrize(("epoch", "expected"), [(0, 1.0), (150, 0.505), (300, 0.01)])
def test_it_fades_to_a_hundredth(epoch: int, expected: float) -> None:
    built = plan()
    raw = built.evaluate({}, ["kd/classes"])
    built.advance(epoch, 300, 1)
    assert float(built.weigh(raw)["kd/classes"]) == pytest.approx(expected * float(raw["kd/classes"]), rel=1e-5)
