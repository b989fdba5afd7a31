"""Properties of the score-weighted squared error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.graph.plan import Plan
from tests.methods.shipped import maps, plan_of, terms_of

SHAPES = ((2, 4, 3, 5), (2, 4, 2, 2))


def plan(ours: list[Tensor], theirs: list[Tensor], logits: list[Tensor]) -> Plan:
    given: dict[str, Any] = {"student.neck": ours, "teacher.neck": theirs, "teacher.head.logits": logits}
    return plan_of("yolo-l2", given, family="dense")


def logits_of(value: float = 0.0) -> list[Tensor]:
    return [torch.full((b, h * w, 3), value) for b, _, h, w in SHAPES]


def projected(built: Plan) -> list[Tensor]:
    return list(built.evaluate({}, ["projected"])["projected"])


def test_the_projectors_own_output_as_teacher_gives_zero() -> None:
    built = plan(maps(*SHAPES), maps(*SHAPES, seed=1), logits_of())
    wanted = [m.detach() for m in projected(built)]
    again = plan(maps(*SHAPES), wanted, logits_of())
    again.ops.load_state_dict(built.ops.state_dict())
    assert float(terms_of(again, "neck")[0].detach()) == 0


@pytest.mark.parametrize("score", [-2.0, 0.0, 3.0])
def test_equal_scores_give_the_mean_square(score: float) -> None:
    theirs = maps(*SHAPES, seed=1)
    built = plan(maps(*SHAPES), theirs, logits_of(score))
    wanted = sum((o - t).square().mean() for o, t in zip(projected(built), theirs, strict=True))
    torch.testing.assert_close(terms_of(built, "neck")[0], wanted)


def test_a_single_cell_counts_alone() -> None:
    theirs, logits = maps(*SHAPES, seed=1), logits_of(-80.0)
    for level in logits:
        level[1, 2, 0] = 5.0
    built = plan(maps(*SHAPES), theirs, logits)
    cells = [(o - t).square().mean(1).flatten(1)[1, 2] for o, t in zip(projected(built), theirs, strict=True)]
    torch.testing.assert_close(terms_of(built, "neck")[0], torch.stack(cells).sum())


def test_a_batch_in_which_the_teacher_sees_nothing_is_damped() -> None:
    theirs = maps(*SHAPES, seed=1)
    values = [float(terms_of(plan(maps(*SHAPES), theirs, logits_of(z)), "neck")[0].detach()) for z in (0.0, -32.0)]
    assert 0 < values[1] < values[0] / 100


def test_a_batch_twice_over_changes_nothing_and_the_teacher_gets_no_gradient() -> None:
    ours, theirs, logits = maps(*SHAPES, grad=True), maps(*SHAPES, seed=1, grad=True), logits_of()
    once = plan(ours, theirs, logits)
    twice = plan(*([torch.cat([m, m]).detach() for m in side] for side in (ours, theirs, logits)))
    twice.ops.load_state_dict(once.ops.state_dict())
    (loss,) = terms_of(once, "neck")
    torch.testing.assert_close(terms_of(twice, "neck")[0], loss)
    grads = torch.autograd.grad(loss, [*ours, *once.ops.parameters()])
    assert all(grad.any() for grad in grads)
