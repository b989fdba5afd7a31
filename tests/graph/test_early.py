"""What may run one batch ahead: frozen stages and fixed-shape ops on them, and nothing of targets, a student or chance."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdflow.graph.compile import compile_method
from kdflow.graph.early import feed
from kdflow.graph.plan import Plan
from kdflow.spec.resolve import parse_method
from tests.toy import toy_batch, toys

METHOD = """\
kdflow: 1
method: test
nodes:
  places: {op: attention.spatial, features: teacher.neck, temperature: 0.5}
  boxes: {op: mask.boxes, like: teacher.neck}
  drawn: {op: mask.random, like: teacher.neck}
  crossed: {call: teacher.head, features: student.neck}
terms:
  neck: {loss: loss.squared_error, student: student.neck, teacher: teacher.neck, factors: [places, boxes, drawn],
    reduce: sum_of_means}
  logits: {loss: loss.bernoulli_kl, student: crossed.logits, teacher: teacher.head.logits, reduce: sum_of_means}
"""
PHASED = METHOD + """\
phases:
  - {name: first, steps: 2, terms: [neck]}
  - {name: second, steps: 2, terms: [logits]}
"""
LEARNING = METHOD + """\
phases:
  - {name: first, steps: 2, train: ["teacher.neck.*"], terms: [neck]}
  - {name: second, steps: 2, train: ["student.*"], terms: [logits]}
"""


def plan_of(text: str = METHOD, **options: Any) -> Plan:
    spec = parse_method(text, "test.yaml")
    detectors = toys()
    torch.manual_seed(3)
    return compile_method(spec.resolve(), spec.document, detectors, canvas=(16, 16), **options)


def facts(plan: Plan, batch: Any) -> dict[str, torch.Tensor]:
    plan.advance(3, 10, 5)
    plan.zero_grad()
    outcome = plan(batch)
    outcome.total.backward()
    return {**outcome.raw, **{name: p.grad.clone() for name, p in plan.named_parameters() if p.grad is not None}}


def test_the_step_is_cut_where_the_teacher_ends() -> None:
    plan = plan_of()
    assert plan.ahead().cut == ["places", "teacher.head.logits", "teacher.neck"]
    assert "places(" not in plan.code
    assert all(f"{name}(" in plan.code for name in ("boxes", "drawn", "crossed_head"))


def test_one_batch_ahead_gives_the_same_bits() -> None:
    alone, plan = plan_of(), plan_of()
    first, second = toy_batch(1, 2), toy_batch(2, 0)
    early = plan.ahead()
    waiting = early(first)
    for batch, behind in ((first, second), (second, None)):
        present, waiting = waiting, early(behind) if behind is not None else waiting
        expected, found = facts(alone, batch), facts(plan, present)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_each_phase_has_a_cut_of_its_own_and_a_fed_batch_may_be_fed_again() -> None:
    plan = plan_of(PHASED)
    plan.enter("first")
    batch = plan.ahead()(toy_batch())
    assert set(batch.fed) == {"places", "teacher.neck"}
    plan.enter("second")
    assert set(plan.ahead()(batch).fed) == {"teacher.head.logits"}


def test_a_teacher_that_some_phase_trains_is_never_ahead() -> None:
    plan = plan_of(LEARNING)
    for phase in ("first", "second"):
        plan.enter(phase)
        assert not {name for name in plan.ahead().cut if name.startswith("teacher.head")}


def test_a_plan_without_a_teacher_has_nothing_ahead() -> None:
    spec = parse_method("kdflow: 1\nmethod: plain\nteacher: none\n", "test.yaml")
    plan = compile_method(spec.resolve(), spec.document, {"student": toys()["student"]}, canvas=(16, 16))
    assert list(plan.ahead()(toy_batch()).fed) == []
    assert torch.isfinite(plan(toy_batch()).total)


def test_what_is_fed_follows_a_batch_to_another_device() -> None:
    moved = feed(toy_batch(), {"x": torch.ones(1)}).to("meta")
    assert moved.images.device.type == "meta"
    assert moved.values()["x"] == 1


def test_it_is_left_out_where_the_plan_computes_the_whole() -> None:
    plan = plan_of()
    before = facts(plan, toy_batch())
    plan.ahead()
    with pytest.raises(KeyError, match="places"):
        plan(toy_batch())
    with plan.whole():
        assert torch.equal(facts(plan, toy_batch())["kd/neck"], before["kd/neck"])
