"""Properties of MasKD."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.graph.plan import Plan
from kdflow.ops.stats.dice import dice
from tests.methods.shipped import fill, maps, plan_of, terms_of

SHAPES = ((2, 4, 8, 10), (2, 4, 4, 5))
TASK = ("terms.task_classes", "terms.task_boxes", "terms.outputs", "nodes.heads", "nodes.judged", "nodes.masked")


def plan(ours: list[Tensor], theirs: list[Tensor], **changes: Any) -> Plan:
    identity = {"nodes.aligned.init": "identity"}
    given = {"student.neck": ours, "teacher.neck": theirs}
    return plan_of("maskd", given, family="dense", changes=identity | changes, drop=TASK)


def test_equal_maps_give_zero() -> None:
    assert [float(v.detach()) for v in terms_of(plan(maps(*SHAPES), maps(*SHAPES)), "same", "custom")] == [0, 0]


def test_tokens_of_zero_average_half_of_the_squared_difference() -> None:
    ours, theirs = maps(*SHAPES), maps(*SHAPES, seed=1)
    built = plan(ours, theirs)
    for level in range(len(SHAPES)):
        fill(built, f"tokens.{level}.tokens", 0.0)
    wanted = torch.stack([(s - t).square().mean() / 2 for s, t in zip(ours, theirs, strict=True)]).sum()
    torch.testing.assert_close(terms_of(built, "same")[0], wanted)


def test_the_students_masks_count_after_the_warm_up_and_tokens_stay_fixed() -> None:
    ours = maps(*SHAPES, grad=True)
    built = plan(ours, maps(*SHAPES, seed=1))
    same, custom = terms_of(built, "same", "custom")
    assert abs(float((same - custom).detach())) > 1e-3
    tokens = [p for n, p in built.ops.named_parameters() if n.startswith("tokens.")]
    grads = torch.autograd.grad(same + custom, [*ours, *tokens], allow_unused=True)
    assert all(g.any() for g in grads[: len(ours)] if g is not None)
    assert all(g is None for g in grads[len(ours):])


def test_the_two_forms_follow_each_other() -> None:
    built = plan(maps(*SHAPES), maps(*SHAPES, seed=1))
    raw = built.evaluate({}, ["kd/same", "kd/custom"])
    for step, alive in ((10, "kd/same"), (90, "kd/custom")):
        built.advance(step, 1000, 100)
        weighted = built.weigh(raw)
        assert [name for name, value in weighted.items() if value.detach() != 0] == [alive]


def test_likeness_of_equal_disjoint_and_single_masks() -> None:
    half = torch.zeros(1, 1, 2, 2)
    half[..., 0] = 1
    assert dice(torch.cat([half, half], 1)) == pytest.approx(1.0)
    assert dice(torch.cat([half, 1 - half], 1)) == 0
    assert dice(half) == 0


def test_token_weights_sum_to_one_and_diversity_trains_the_tokens() -> None:
    built = plan(maps(*SHAPES), maps(*SHAPES, seed=1))
    for weights in built.evaluate({}, ["theirs.weights"])["theirs.weights"]:
        torch.testing.assert_close(weights.sum(1), torch.ones(2))
    (diversity,) = terms_of(built, "diversity")
    (grad,) = torch.autograd.grad(diversity, dict(built.ops.named_parameters())["tokens.0.tokens"])
    assert grad.any()
