"""Properties of Mimic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdflow.ops.regions.pool import pool
from tests.methods.shipped import maps, plan_of, terms_of

STRIDES = (4, 8)
LEVELS = {
    "nodes.aligned.features": "student.neck", "nodes.aligned.like": "teacher.neck", "nodes.theirs.features": "teacher.neck",
}
SHAPES = ((2, 3, 32, 32), (2, 3, 16, 16))
PROPOSALS = [torch.tensor([[8.0, 8, 30, 40], [2.0, 2, 120, 118]]), torch.tensor([[64.0, 60, 90, 100]])]


def term(ours: list[Tensor], theirs: list[Tensor], boxes: list[Tensor] = PROPOSALS, **changes: Any) -> Tensor:
    given = {"student.neck": ours, "teacher.neck": theirs, "teacher.rpn.proposals": boxes}
    plan = plan_of("mimic", given, strides={"student.neck": STRIDES, "teacher.neck": STRIDES}, changes=LEVELS | changes)
    return terms_of(plan, "mimic")[0]


def test_equal_maps_of_equal_width_give_zero() -> None:
    assert term(maps(*SHAPES), maps(*SHAPES)) == 0


def test_order_and_repetition_of_proposals_do_not_matter() -> None:
    ours, theirs = maps(*SHAPES), maps(*SHAPES, seed=1)
    value = term(ours, theirs)
    torch.testing.assert_close(term(ours, theirs, [PROPOSALS[0].flip(0), PROPOSALS[1]]), value)
    torch.testing.assert_close(term(ours, theirs, [b.repeat(2, 1) for b in PROPOSALS]), value)


def test_no_gradient_outside_the_proposals() -> None:
    ours = maps(*SHAPES, grad=True)
    fine, coarse = torch.autograd.grad(term(ours, maps(*SHAPES, seed=1)), ours)
    assert not fine[0, :, 12:, :].any()            # the small box of image 0 covers rows 2 to 10, the bilinear margin row 11
    assert not fine[0, :, :, 9:].any()
    assert fine[0, :, 3:9, 3:7].all()
    assert not coarse[1].any()
    assert coarse[0].any()


def test_no_proposals_give_zero() -> None:
    ours = maps(*SHAPES, grad=True)
    value = term(ours, maps(*SHAPES, seed=1), [b[:0] for b in PROPOSALS])
    assert not value.detach()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(value, ours))


def test_an_adapter_may_stand_before_or_after_the_pooling() -> None:
    ours, theirs = maps((2, 2, 32, 32), (2, 2, 16, 16)), maps(*SHAPES, seed=1)
    given = {"student.neck": ours, "teacher.neck": theirs, "teacher.rpn.proposals": PROPOSALS}
    plan = plan_of("mimic", given, strides={"student.neck": STRIDES, "teacher.neck": STRIDES}, changes=LEVELS)
    found = plan.evaluate({}, ["ours", "theirs", "kd/mimic"])
    layer = dict(plan.ops.named_modules())["aligned.conv"]
    raw = pool(ours, PROPOSALS, 7, 0, 56, 2, 1, False, STRIDES)
    torch.testing.assert_close(layer(raw), found["ours"])
    torch.testing.assert_close(found["kd/mimic"], (found["ours"] - found["theirs"]).square().mean() / 2)


def test_twice_the_difference_gives_four_times_the_value() -> None:
    theirs = maps(*SHAPES, seed=1)
    away = maps(*SHAPES)
    near, far = ([t + k * d for t, d in zip(theirs, away, strict=True)] for k in (1, 2))
    torch.testing.assert_close(term(far, theirs), 4 * term(near, theirs))
