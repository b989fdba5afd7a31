"""What a probe names: nodes that are dead, saturated or collapsed, and sides that are far apart; and nothing else."""

from __future__ import annotations

import pytest
import torch

from kdflow.graph.plan import Plan
from kdflow.graph.probe import Sides, probe, probed
from kdflow.ports import Batch
from tests.graph.test_plan import HEAD, plan_of
from tests.toy import toy_batch

WEIGHED = HEAD + """
nodes:
  places: {op: attention.spatial, features: teacher.neck, temperature: %s}
  chances: {op: transform.softmax, logits: teacher.neck, over: [y, x], temperature: 0.5}
  objects: {op: mask.boxes, like: teacher.neck}
terms:
  neck: {loss: loss.squared_error, student: student.neck, teacher: teacher.neck, factors: [places, objects], reduce: sum_of_means}
  chance: {loss: loss.kl, over: [y, x], student: student.neck, teacher: teacher.neck, temperature: %s, reduce: sum_of_means}
  spread: {loss: loss.l1, student: student.neck, teacher: chances, reduce: sum_of_means}
"""


def large(plan: Plan, factor: float) -> None:
    """The teacher's maps many times as large, one place of the first level beyond all others."""
    for layer in plan.teachers["teacher"].neck:
        layer.weight.data.mul_(factor)
        layer.bias.data.mul_(factor)


def said(plan: Plan, *batches: Batch) -> dict[str, str]:
    return {finding.node: finding.problem for finding in probe(plan, batches or (toy_batch(),)).findings}


def test_sound_values_are_not_blamed() -> None:
    plan = plan_of(WEIGHED % (0.5, 1.0))
    found = probe(plan, (toy_batch(), toy_batch(1, 1)))
    assert found.notes == ()
    assert [one.term for one in found.sides] == ["kd/neck", "kd/chance", "kd/spread"]
    assert all(len(one.student) == len(one.teacher) == 2 for one in found.sides)


def test_attention_on_one_place_is_named_with_its_size() -> None:
    plan = plan_of(WEIGHED % (1e-4, 1.0))
    found = said(plan)
    assert set(found) == {"places"}
    assert found["places"].startswith("collapsed: its weight lies on 1.0 of 64 entries; a higher temperature spreads it (entry 0")


def test_softmax_inside_a_loss_is_looked_at() -> None:
    found = said(plan_of(WEIGHED % (0.5, 1e-5)))
    assert list(found) == ["chance.loss"]
    assert "the teacher's softmax over places lies on 1.0 of 64 entries" in found["chance.loss"]


def test_a_mask_of_nothing_is_named_if_it_is_so_in_all_batches() -> None:
    plan = plan_of(WEIGHED % (0.5, 1.0))
    assert said(plan, toy_batch(0, 0)).keys() >= {"objects"}
    assert said(plan, toy_batch(0, 0))["objects"].startswith("0 everywhere, so nothing is weighed or compared there")
    assert said(plan, toy_batch(0, 0), toy_batch(1, 1)) == {}


def test_constant_maps_have_variance_0() -> None:
    plan = plan_of(WEIGHED % (0.5, 1.0))
    for layer in plan.teachers["teacher"].neck:
        layer.weight.data.zero_()
        layer.bias.data.fill_(0.25)
    assert "0.0156 everywhere: its variance is 0" in said(plan)["chances"]


@pytest.mark.parametrize(
    ("own", "other", "wrong"), [((1.0, 0.01), (1.0, 1.0), True), ((1.0,), (20.0,), False), ((0.0,), (1.0,), False)]
)
def test_sides_far_apart_are_told(own: tuple[float, ...], other: tuple[float, ...], wrong: bool) -> None:
    words = Sides("kd/neck", own, other).problem
    assert bool(words) is wrong
    if wrong:
        assert "the student's root mean square is 0.01, the teacher's 1 in entry 1; standardise both sides" in words


def test_root_mean_squares_are_those_of_the_values() -> None:
    plan = plan_of(WEIGHED % (0.5, 1.0))
    batch = toy_batch()
    with torch.no_grad():
        maps = plan.evaluate(batch, ["teacher.neck"])["teacher.neck"]
    (sides,) = [one for one in probe(plan, (batch,)).sides if one.term == "kd/neck"]
    assert sides.teacher == pytest.approx([float(m.square().mean().sqrt()) for m in maps])


def test_saturated_probabilities_are_named() -> None:
    text = HEAD + """
nodes:
  sure: {op: transform.softmax, logits: teacher.neck, over: [c], temperature: 1.0e-6}
terms:
  neck: {loss: loss.l1, student: student.neck, teacher: sure, reduce: sum_of_means}
"""
    assert "100 % of its probabilities are 0 or 1" in said(plan_of(text))["sure"]


def test_a_plan_without_distillation_has_nothing_to_look_at() -> None:
    plan = plan_of(HEAD + "terms: {}\n")
    assert probed(plan) == []
    assert probe(plan, (toy_batch(),)).notes == ()
