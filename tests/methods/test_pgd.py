"""Properties of the masks and terms that a teacher's predictions guide."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.graph.plan import Plan
from kdflow.ops.attention.channel import channel
from kdflow.ops.regions.inside import inside
from kdflow.ops.regions.likely import likely
from tests.methods.shipped import maps, plan_of, terms_of

SIDE, PLACES, K = 6, 36, 5
TARGETS = [torch.tensor([[4.0, 4, 30, 28], [20.0, 18, 46, 46]]), torch.zeros(0, 4)]
LABELS = [torch.tensor([1, 0]), torch.zeros(0, dtype=torch.long)]
CLASS_TERMS = ("objects", "rest", "channels", "places")


def priors() -> Tensor:
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    corner = torch.stack([x, y], -1).reshape(-1, 2) * 8.0
    return torch.cat([corner, corner + 8], 1)


def predictions() -> tuple[list[Tensor], list[Tensor]]:
    (logits,) = maps((2, PLACES, 3), seed=3)
    (noise,) = maps((2, PLACES, 4), seed=4)
    return [logits], [priors() + noise + torch.tensor([-4.0, -4, 4, 4])]


def plan(ours: Tensor, theirs: Tensor, **changes: Any) -> Plan:
    logits, boxes = predictions()
    given = {
        "class_tower.student": [ours], "class_tower.teacher": [theirs],
        "box_tower.student": [ours], "box_tower.teacher": [theirs],
        "teacher.head.cls_tower.1": [theirs], "teacher.head.box_tower.1": [theirs], "teacher.head.logits": logits,
        "teacher.head.boxes": boxes, "teacher.head.priors": [priors()], "targets.boxes": TARGETS, "targets.labels": LABELS,
    }
    levels = {f"terms.{name}.reduce.levels": [1.0] for name in ("objects", "rest")}
    node = {f"terms.{name}.at": "cnn/head" for name in (*CLASS_TERMS, "boxes", "box_channels")}
    return plan_of("pgd", given, family="dense", changes={"constants.K": K, **levels, **node, **changes})


def towers(seed: int = 0) -> Tensor:
    (tower,) = maps((2, 4, SIDE, SIDE), seed=seed)
    return tower.requires_grad_(seed == 0)


def test_equal_towers_give_zero() -> None:
    ours = towers()
    values = terms_of(plan(ours, ours.detach().clone()), *CLASS_TERMS, "boxes", "box_channels")
    assert [float(value.detach()) for value in values] == [0.0] * 6


def test_bells_lie_on_few_places_inside_the_objects() -> None:
    (weights,) = likely(*predictions(), [priors()], TARGETS, LABELS, k=K)
    assert 0 < float(weights.max()) <= 1
    assert float(weights.min()) == 0
    assert int((weights[0] > 0).sum()) <= 2 * K
    assert float(weights[1].max()) == 0
    (shown,) = inside([priors()], TARGETS)
    assert not bool(((weights > 0) & (shown == 0)).any())
    (alone,) = likely(*predictions(), [priors()], TARGETS, LABELS, k=1)
    assert set(alone.unique().tolist()) <= {0.0, 1.0}
    (all_places,) = likely(*predictions(), [priors()], TARGETS, LABELS, k=1000)
    assert torch.isfinite(all_places).all()


def test_attention_of_every_place_has_mean_one() -> None:
    tower = towers().detach()
    judged = channel(tower, 0.8, over=())
    assert judged.shape == tower.shape
    torch.testing.assert_close(judged.mean(1), torch.ones(2, SIDE, SIDE))


@pytest.mark.parametrize(("term", "node"), [("objects", "class_fit"), ("rest", "rest")])
def test_gradient_stays_where_the_mask_is(term: str, node: str) -> None:
    ours = towers()
    built = plan(ours, towers(1))
    (loss,) = terms_of(built, term)
    (grad,) = torch.autograd.grad(loss, ours)
    (mask,) = built.evaluate({}, [node])[node]
    hidden = mask.reshape(2, SIDE, SIDE) == 0
    assert float(grad.abs().sum(1)[hidden].max()) == 0
    assert float(grad.abs().sum(1)[~hidden].max()) > 0


def test_levels_weigh_the_features_and_not_the_attention() -> None:
    ours, theirs = towers(), towers(1)
    once = terms_of(plan(ours, theirs), *CLASS_TERMS)
    doubled = {f"terms.{name}.reduce.levels": [2.0] for name in ("objects", "rest")}
    twice = terms_of(plan(ours, theirs, **doubled), *CLASS_TERMS)
    ratios = [float((b / a).detach()) for a, b in zip(once, twice, strict=True)]
    assert ratios == pytest.approx([2, 2, 1, 1])
