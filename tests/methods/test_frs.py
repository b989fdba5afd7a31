"""Properties of FRS."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.graph.plan import Plan
from tests.methods.shipped import maps, plan_of, terms_of

SHAPES = ((2, 4, 4, 5), (2, 4, 2, 3))
LOGITS = ((2, 60, 2), (2, 18, 2))            # three anchors, two classes
IDENTITY = {"nodes.aligned.init": "identity"}


def plan(**given: Any) -> Plan:
    base = {
        "student.neck": maps(*SHAPES), "teacher.neck": maps(*SHAPES, seed=1),
        "student.head.logits": maps(*LOGITS, seed=2), "teacher.head.logits": maps(*LOGITS, seed=3),
    }
    return plan_of("frs", base | given, family="dense", changes=IDENTITY)


def richness(logits: list[Tensor]) -> list[Tensor]:
    """(B, H, W) by hand."""
    sizes = [shape[2:] for shape in SHAPES]
    return [x.sigmoid().reshape(2, *size, 6).amax(-1) for x, size in zip(logits, sizes, strict=True)]


def test_equal_models_give_no_feature_loss_and_no_gradient_on_scores() -> None:
    logits = maps(*LOGITS, seed=3, grad=True)
    built = plan(**{"student.neck": maps(*SHAPES, seed=1), "student.head.logits": logits})
    feature, classes = terms_of(built, "feature", "classes")
    assert feature.detach() == 0
    for grad in torch.autograd.grad(classes, logits):
        torch.testing.assert_close(grad, torch.zeros_like(grad), atol=1e-8, rtol=0)


def test_a_constant_richness_is_a_plain_mean_over_places() -> None:
    low = [torch.full(shape, -3.0) for shape in LOGITS]
    high = [torch.full(shape, 3.0) for shape in LOGITS]
    values = [terms_of(plan(**{"teacher.head.logits": x}), "feature")[0] for x in (low, high)]
    torch.testing.assert_close(values[0], values[1])


def test_one_rich_cell_decides_alone() -> None:
    logits = [torch.full(shape, -60.0) for shape in LOGITS]
    logits[0][1, 7 * 3 + 2, 1] = 0.0                     # cell (1, 2) of image 1, any anchor, any class
    logits[1][0, 0, 0] = 0.0
    ours, theirs = maps(*SHAPES), maps(*SHAPES, seed=1)
    wanted = (ours[0] - theirs[0])[1, :, 1, 2].square().sum() + (ours[1] - theirs[1])[0, :, 0, 0].square().sum()
    torch.testing.assert_close(terms_of(plan(**{"teacher.head.logits": logits}), "feature")[0], wanted)


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (250, 0.5), (500, 1.0), (900, 1.0)])
def test_terms_grow_over_five_hundred_steps(step: int, share: float) -> None:
    built = plan()
    raw = built.evaluate({}, ["kd/feature", "kd/classes"])
    built.advance(step, 1000, 100)
    weighted = built.weigh(raw)
    torch.testing.assert_close(weighted["kd/feature"], share * 0.005 * raw["kd/feature"])
    torch.testing.assert_close(weighted["kd/classes"], share * 0.02 * raw["kd/classes"])


def test_the_gradient_on_scores_and_none_through_the_richness() -> None:
    ours, theirs = maps(*LOGITS, seed=2, grad=True), maps(*LOGITS, seed=3, grad=True)
    built = plan(**{"student.head.logits": ours, "teacher.head.logits": theirs})
    feature, classes = terms_of(built, "feature", "classes")
    grads = torch.autograd.grad(classes, ours, retain_graph=True)
    for grad, s, t, rich in zip(grads, ours, theirs, richness(theirs), strict=True):
        places = rich.flatten(1).repeat_interleave(3, dim=1)[..., None]
        torch.testing.assert_close(grad, (places * (s.sigmoid() - t.sigmoid()) / rich.sum()).detach())
    (adapter,) = (p for n, p in built.ops.named_parameters() if n == "aligned.0.conv.bias")
    assert torch.autograd.grad(feature, adapter, retain_graph=True)[0].any()
    assert all(g is None for g in torch.autograd.grad(feature, theirs, allow_unused=True, retain_graph=True))
