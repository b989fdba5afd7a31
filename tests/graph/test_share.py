"""The common pass of several plans: one run of the teacher, and the same numbers and gradients as each plan alone."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from kdflow.graph.compile import compile_method
from kdflow.graph.node import Graph
from kdflow.graph.plan import Plan
from kdflow.graph.share import Shared
from kdflow.ports import Batch, Detector
from kdflow.spec.resolve import parse_method
from tests.toy import make_toy

NECK = "  neck: {loss: loss.squared_error, student: student.neck, teacher: teacher.neck, reduce: sum_of_means}\n"
ALIGNED = """\
nodes:
  aligned: {op: adapter.conv, features: student.neck, like: teacher.neck}
terms:
  neck: {loss: loss.squared_error, student: aligned, teacher: teacher.neck, reduce: sum_of_means}
  logits: {loss: loss.bernoulli_kl, student: student.head.logits, teacher: teacher.head.logits, reduce: sum_of_means}
"""
MASKED = """\
nodes:
  kept: {op: mask.random, like: teacher.neck}
terms:
  neck: {loss: loss.squared_error, student: student.neck, teacher: teacher.neck, factors: [kept], reduce: sum_of_means}
"""
CROSSED = """\
nodes:
  crossed: {call: teacher.head, features: student.neck}
terms:
  logits: {loss: loss.bernoulli_kl, student: crossed.logits, teacher: teacher.head.logits, reduce: sum_of_means}
"""
TAPPED = "  first: {loss: loss.squared_error, student: student@neck.0, teacher: teacher@neck.0, reduce: sum_of_means}\n"


@pytest.fixture
def teacher() -> Detector:
    torch.manual_seed(5)
    return make_toy()


def plan_of(body: str, teacher: Any, seed: int | None = 0) -> Plan:
    text = "kdflow: 1\nmethod: test\n" + (body if body.startswith("nodes") else f"terms:\n{body}")
    spec = parse_method(text, "test.yaml")
    torch.manual_seed(3)
    return compile_method(
        spec.resolve(), spec.document, {"student": make_toy(), "teacher": teacher}, canvas=(16, 16), seed=seed
    )


def stages(graph: Graph) -> list[str]:
    return [name for name in (node.name for node in graph.ordered()) if ":" in name]


def facts(plan: Plan, batch: Batch) -> dict[str, torch.Tensor]:
    """Terms and gradients of one pass at step 3."""
    plan.advance(3, 10, 5)
    plan.zero_grad()
    outcome = plan(batch)
    outcome.total.backward()
    return {**outcome.raw, **{name: p.grad.clone() for name, p in plan.named_parameters() if p.grad is not None}}


BODIES = (NECK, ALIGNED, MASKED, CROSSED, TAPPED)


def test_every_plan_gets_the_numbers_and_gradients_it_has_alone(teacher: Detector, batch: Batch) -> None:
    alone = [facts(plan_of(body, copy.deepcopy(teacher)), batch) for body in BODIES]
    plans = [plan_of(body, teacher) for body in BODIES]
    shared = Shared(plans)
    for plan, own, expected in zip(plans, shared(batch, 3), alone, strict=True):
        found = facts(plan, own)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_teacher_runs_once_for_all(teacher: Detector, batch: Batch) -> None:
    plans = [plan_of(body, teacher) for body in (NECK, ALIGNED, ALIGNED, TAPPED)]
    shared = Shared(plans)
    assert stages(shared.graph) == ["teacher:backbone", "teacher:neck", "teacher:head"]
    for plan, own in zip(plans, shared(batch, 0), strict=True):
        plan(own)
    assert teacher.stages["head"].run.calls == 1
    assert all("teacher_neck(" not in plan.code for plan in plans)


def test_what_no_plan_needs_does_not_run(teacher: Detector) -> None:
    assert stages(Shared([plan_of(NECK, teacher), plan_of(TAPPED, teacher)]).graph) == [
        "teacher:backbone",
        "teacher:neck",
    ]


def test_a_stage_that_depends_on_a_student_stays_with_it(teacher: Detector, batch: Batch) -> None:
    plans = [plan_of(CROSSED, teacher), plan_of(CROSSED, teacher)]
    for plan, own in zip(plans, Shared(plans)(batch, 0), strict=True):
        assert facts(plan, own)["student.neck.0.weight"].abs().sum() > 0
    assert teacher.stages["head"].run.calls == 3  # once on its own features, and once for each student


def test_draws_are_shared_by_plans_of_one_seed_only(teacher: Detector) -> None:
    def masks(*seeds: int | None) -> list[str]:
        graph = Shared([plan_of(MASKED, teacher, seed=seed) for seed in seeds]).graph
        return [node.name for node in graph.ordered() if node.op is not None and node.op.name == "mask.random"]

    assert masks(0, 0) == ["kept"]
    assert masks(0, 1, 0) == ["kept", "kept~2"]
    assert masks(None, None) == []  # they draw from torch's generator, each at its turn


def test_draws_do_not_stop_when_the_plan_they_came_from_leaves(teacher: Detector, batch: Batch) -> None:
    gone, left = plan_of(MASKED, teacher), plan_of(MASKED, teacher)
    expected = [facts_at(plan_of(MASKED, copy.deepcopy(teacher)), batch, step) for step in (1, 2)]
    shared = Shared([gone, left])
    found = [facts_at(left, shared(batch, step)[1], step) for step in (1, 2)]
    assert found == expected
    assert found[0] != found[1]


def facts_at(plan: Plan, batch: Batch, step: int) -> float:
    plan.advance(step, 10, 5)
    return plan(batch).raw["kd/neck"].item()


def test_teachers_that_are_not_one_object_are_kept_apart(teacher: Detector) -> None:
    shared = Shared([plan_of(NECK, teacher), plan_of(NECK, copy.deepcopy(teacher))])
    assert stages(shared.graph) == ["teacher:backbone", "teacher:neck", "teacher:backbone~2", "teacher:neck~2"]


def test_a_plan_without_a_teacher_takes_part(teacher: Detector, batch: Batch) -> None:
    spec = parse_method("kdflow: 1\nmethod: plain\nteacher: none\n", "test.yaml")
    plain = compile_method(spec.resolve(), spec.document, {"student": make_toy()}, canvas=(16, 16))
    plans = [plain, plan_of(NECK, teacher)]
    totals = [plan(own).total for plan, own in zip(plans, Shared(plans)(batch, 0), strict=True)]
    assert all(torch.isfinite(total) for total in totals)
    assert Shared([plain])(batch, 0)[0].fed == {}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch warns of its own look
def test_taps_reach_into_a_stage_that_another_plan_has_compiled(teacher: Detector, batch: Batch) -> None:
    for name in ("backbone", "neck"):
        teacher.stages[name] = replace(teacher.stages[name], dense=True)
    expected = facts(plan_of(TAPPED, copy.deepcopy(teacher)), batch)["kd/first"]
    plans = [plan_of(NECK, teacher), plan_of(TAPPED, teacher)]
    assert "teacher:neck" in plans[0].compile_dense("eager")
    assert "teacher:neck" not in plans[1].compile_dense("eager")
    fed = Shared(plans)(batch, 3)
    torch.testing.assert_close(facts(plans[1], fed[1])["kd/first"], expected)
    torch._dynamo.reset()


def test_an_uncut_plan_computes_everything_again(teacher: Detector, batch: Batch) -> None:
    plan = plan_of(NECK, teacher)
    before = facts(plan, batch)
    Shared([plan])
    with pytest.raises(KeyError, match=r"teacher\.neck"):
        plan(batch)
    plan.cut(())
    assert torch.equal(facts(plan, batch)["kd/neck"], before["kd/neck"])
