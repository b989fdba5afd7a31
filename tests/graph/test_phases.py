"""``phases:`` and ``init:`` of a plan: which terms count, what trains, which teachers learn, what the student takes over."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdflow.errors import SpecError
from kdflow.graph.compile import compile_method
from kdflow.graph.plan import Plan
from kdflow.spec.method import trains
from kdflow.spec.resolve import parse_method
from tests.toy import make_toy, toy_batch, toys

HEAD = "kdflow: 1\nmethod: test\n"
TERMS = (
    "terms:\n"
    "  lesson: {value: teacher.losses.loss, at: cnn/head}\n"
    "  neck: {loss: loss.squared_error, student: student.neck, teacher: teacher.neck, reduce: sum_of_means}\n"
)
PHASES = (
    "phases:\n"
    '  - {name: first, steps: 0.5, terms: [lesson], train: ["teacher.head.*"]}\n'
    '  - {name: second, steps: 0.5, terms: ["det/*", neck], init: [{student: "*"}]}\n'
)
LEARNING = HEAD + TERMS + PHASES


def plan_of(text: str, detectors: dict[str, Any] | None = None) -> Plan:
    spec = parse_method(text, "test.yaml")
    return compile_method(spec.resolve(), spec.document, detectors or toys(), canvas=(16, 16))


def faults(text: str, detectors: dict[str, Any] | None = None) -> str:
    with pytest.raises(SpecError) as caught:
        plan_of(text, detectors)
    return str(caught.value)


def test_a_teacher_that_some_phase_trains_is_a_part_of_the_plan() -> None:
    plan = plan_of(LEARNING)
    assert list(plan.learners) == ["teacher"]
    assert {name.split(".")[0] for name in plan.state_dict()} == {"student", "teacher"}
    plain = plan_of(
        LEARNING.replace("teacher.head.*", "student.head.*")
        .replace("  lesson: {value: teacher.losses.loss, at: cnn/head}\n", "")
        .replace("[lesson]", "[neck]")
    )
    assert plain.learners == {}
    assert {name.split(".")[0] for name in plain.state_dict()} == {"student"}


def test_its_parameters_are_frozen_until_the_plan_is_trained() -> None:
    detectors = toys()
    detectors["teacher"].model.neck.requires_grad_(False)
    plan = plan_of(LEARNING, detectors)
    teacher = plan.teachers["teacher"]
    assert not any(p.requires_grad for p in teacher.parameters())
    assert plan.thaw() == (teacher,)
    assert teacher.head.weight.requires_grad
    assert not teacher.neck[0].weight.requires_grad  # as its library left it


def test_only_the_phase_that_trains_a_detector_puts_it_into_training_mode() -> None:
    plan = plan_of(LEARNING)
    for phase, learns in (("", "student"), ("first", "teacher"), ("second", "student")):
        plan.enter(phase)
        plan.train()
        for owner in ("student", "teacher"):
            assert {module.training for module in plan.detectors[owner].model.modules()} == {owner == learns}, phase
            assert {stage.run.training for stage in plan.detectors[owner].stages.values()} == {owner == learns}, phase


def test_what_no_term_of_a_phase_needs_does_not_run() -> None:
    detectors = toys()
    plan = plan_of(LEARNING, detectors)
    plan.enter("first")
    assert set(plan(toy_batch()).raw) == {"kd/lesson"}
    assert (detectors["student"].stages["head"].run.calls, detectors["teacher"].stages["head"].run.calls) == (0, 1)
    plan.enter("second")
    assert set(plan(toy_batch()).raw) == {"det/loss", "kd/neck"}
    assert (detectors["student"].stages["head"].run.calls, detectors["teacher"].stages["head"].run.calls) == (1, 1)


def test_a_term_for_a_teacher_that_learns_is_auxiliary_and_one_for_a_frozen_teacher_a_mistake() -> None:
    assert [t.name for t in plan_of(LEARNING).terms if t.auxiliary] == ["kd/lesson"]
    frozen = LEARNING.replace("teacher.head.*", "student.head.*")
    assert "nothing would be learned from this term" in faults(frozen)


def test_the_student_takes_over_weights_when_the_phase_begins_and_not_when_it_goes_on() -> None:
    plan = plan_of(LEARNING)
    student, teacher = plan.student.state_dict(), plan.teachers["teacher"].state_dict()
    assert not torch.equal(student["head.weight"], teacher["head.weight"])
    plan.enter("second")
    assert not torch.equal(student["head.weight"], teacher["head.weight"])
    assert not plan.begin("first")
    assert plan.begin("second")
    assert all(torch.equal(student[name], teacher[name]) for name in student)


def test_weights_of_another_shape_stay_as_they_are() -> None:
    text = HEAD + (
        "nodes:\n  aligned: {op: adapter.conv, features: student.neck, like: teacher.neck}\n"
        "terms:\n  neck: {loss: loss.squared_error, student: aligned, teacher: teacher.neck, reduce: sum_of_means}\n"
        'phases: [{name: all, steps: 1, init: [{student: "*"}]}]\n'
    )
    plan = plan_of(text, toys(6))
    student, teacher = plan.student.state_dict(), plan.teachers["teacher"].state_dict()
    plan.begin("all")
    assert torch.equal(student["head.bias"], teacher["head.bias"])
    assert student["head.weight"].shape != teacher["head.weight"].shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: second", "name: first"), 'phases[1].name: there are two phases called "first"'),
        (("[lesson]", "[lessen]"), "phases[0].terms: no term counts in this phase"),
        (('["det/*", neck]', '["det/*"]'), "terms.neck: this term counts in no phase"),
        (("teacher.head.*", "teacher.heads.*"), 'phases[0].train: "teacher.heads.*" fits no parameter'),
        (('{student: "*"}', '{student: "heads.*"}'), '"heads.*" fits no weights of equal name and shape'),
        (('{student: "*"}', '{student: "*", source: tutor}'), 'phases[1].init[0]: there is no "tutor" to inherit from'),
        (("phases:", 'init: [{student: "heads.*"}]\nphases:'), 'init[0]: "heads.*" fits no weights'),
    ],
)
def test_mistakes_in_phases_are_found_before_anything_runs(change: tuple[str, str], message: str) -> None:
    assert message in faults(LEARNING.replace(*change))


def test_a_learning_teachers_name_must_be_free_in_the_plan() -> None:
    detectors = {"student": make_toy(), "ops": make_toy()}
    text = LEARNING.replace("teacher.", "ops.").replace('{student: "*"}', '{student: "*", source: ops}')
    assert 'a teacher called "ops" cannot train' in faults(text, detectors)


def test_a_pattern_trains_a_teacher_only_by_name() -> None:
    assert trains("*", "student.head.weight")
    assert trains("head.*", "student.head.weight")
    assert trains("ops.*", "ops.aligned.0.conv.weight")
    assert trains("teacher.*", "teacher.head.weight")
    assert not trains("*", "teacher.head.weight")
    assert not trains("teacher*", "teacher.head.weight")
    assert not trains("teacher.*", "tutor.head.weight")
