"""Copies of a detector's stages: weights of their own, that start as the detector's."""

from __future__ import annotations

from typing import Any

import torch

from kdflow.graph.copies import stages_of
from kdflow.graph.facets import needs
from kdflow.graph.node import Role
from kdflow.graph.plan import Plan
from kdflow.ports import Batch
from tests.graph.test_plan import HEAD, faults, plan_of
from tests.toy import make_toy, toys

COPY = HEAD + (
    "modules:\n  assistant: {copy: teacher.head}\n"
    "nodes:\n  assisted: {call: assistant, features: student.neck}\n"
    "terms:\n  t: {loss: loss.squared_error, student: assisted.logits, teacher: teacher.head.logits, reduce: sum_of_means}\n"
)
FROZEN = COPY.replace("teacher.head}", "teacher.head, trainable: false}")


def assistant(plan: Plan) -> torch.nn.Conv2d:
    conv: Any = plan.ops["assistant"]["head"].conv  # type: ignore[index]
    return conv


def train(plan: Plan, batch: Batch, steps: int) -> torch.Tensor:
    optimizer = torch.optim.SGD([p for p in plan.parameters() if p.requires_grad], lr=0.1)
    total = torch.zeros(())
    for step in range(steps):
        plan.advance(step, 10, 10)
        total = plan(batch).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return total.detach()


def test_a_copy_starts_with_the_teachers_weights_and_trains_alone(batch: Batch) -> None:
    detectors = toys()
    plan, theirs = plan_of(COPY, detectors), detectors["teacher"].model.head.weight
    before = theirs.clone()
    assert assistant(plan).weight.equal(theirs)
    assert assistant(plan).weight is not theirs
    train(plan, batch, 2)
    assert not assistant(plan).weight.equal(before)
    assert theirs.equal(before)
    assert theirs.grad is None


def test_its_gradient_reaches_the_students_features(batch: Batch) -> None:
    detectors = toys()
    plan = plan_of(COPY, detectors)
    plan.weigh(plan(batch).raw)["kd/t"].backward()
    assert detectors["student"].model.backbone[0].weight.grad.any()
    assert assistant(plan).weight.grad.any()
    assert detectors["student"].model.head.weight.grad is None


def test_weights_that_are_loaded_after_compiling_are_taken_over(batch: Batch) -> None:
    detectors = toys()
    plan = plan_of(COPY, detectors)
    other = make_toy()
    detectors["teacher"].model.load_state_dict(other.model.state_dict())
    assert not assistant(plan).weight.equal(other.model.head.weight)
    plan.copy_weights()
    assert assistant(plan).weight.equal(other.model.head.weight)


def test_the_copy_is_in_the_plans_state_and_not_in_the_students(batch: Batch) -> None:
    plan = plan_of(COPY)
    names = [name for name, _ in plan.named_parameters() if not name.startswith("student.")]
    assert names == ["ops.assistant.head.conv.weight", "ops.assistant.head.conv.bias"]
    assert not any("assistant" in name for name in plan.student.state_dict())
    assert plan.report.adapters == {"assistant": 10}


def test_a_plan_built_anew_goes_on_from_the_state(batch: Batch) -> None:
    plan = plan_of(COPY)
    train(plan, batch, 2)
    again = plan_of(COPY)
    again.load_state_dict(plan.state_dict())
    assert train(again, batch, 1).equal(train(plan, batch, 1))


def test_a_frozen_copy_stays_as_it_is_in_eval_mode(batch: Batch) -> None:
    detectors = toys()
    plan = plan_of(FROZEN, detectors)
    train(plan, batch, 2)
    assert assistant(plan).weight.equal(detectors["teacher"].model.head.weight)
    assert not plan.ops["assistant"].training
    assert not any(name.startswith("ops") for name, p in plan.named_parameters() if p.requires_grad)
    assert detectors["student"].model.backbone[0].weight.grad.any()


def test_a_copy_is_never_merged_with_what_it_was_copied_from(batch: Batch) -> None:
    text = COPY.replace("features: student.neck", "features: teacher.neck").replace("{loss", "{at: cnn/head, loss")
    plan = plan_of(text)
    stages = [n.name for n in plan.graph.of_role(Role.STAGE) if n.stage == "head" and n.owner == "teacher"]
    assert sorted(stages) == ["assisted:head", "teacher:head"]
    assert next(t for t in plan.terms if t.name == "kd/t").auxiliary
    assert plan(batch).raw["kd/t"] == 0


def test_two_calls_share_one_copy(batch: Batch) -> None:
    text = COPY.replace("terms:", "  twice: {call: assistant, features: student.neck, scale: 2.0}\nterms:") + (
        "  u: {loss: loss.squared_error, student: twice.logits, teacher: teacher.head.logits, reduce: sum_of_means}\n"
    )
    plan = plan_of(text)
    assert plan.report.adapters == {"assistant": 10}
    found = plan.evaluate(batch, ["assisted.logits", "twice.logits"])
    torch.testing.assert_close(found["twice.logits"][0], 2 * found["assisted.logits"][0])


def test_a_teacher_stage_that_only_runs_as_a_copy_counts_as_pruned() -> None:
    text = COPY.replace("teacher: teacher.head.logits", "teacher: student.head.logits")
    plan = plan_of(text)
    assert plan.report.teacher_stages_run == ()
    assert needs(plan.graph, plan.method) == ("trainable_adapter",)


def test_a_copy_holds_the_stages_between_inputs_and_outputs() -> None:
    toy = make_toy()
    assert stages_of(toy, toy.calls["head"]) == ["head"]
    assert stages_of(toy, toy.calls["everything"]) == ["neck", "head"]


def test_an_unknown_call_is_shown_where_it_is_copied() -> None:
    assert "modules.assistant.copy: toy has no call" in faults(COPY.replace("teacher.head}", "teacher.heat}"))
    assert 'no detector "tutor"' in faults(COPY.replace("copy: teacher", "copy: tutor"))
