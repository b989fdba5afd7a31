"""Several teachers, and none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdflow.errors import SpecError
from kdflow.graph.compile import compile_method
from kdflow.graph.plan import Plan
from kdflow.spec.resolve import parse_method
from tests.toy import make_toy, toy_batch

HEAD = "kdflow: 1\nmethod: test\n"
TWO = HEAD + (
    "nodes:\n"
    "  calm: {op: transform.detach, features: large.neck}\n"
    "terms:\n"
    "  large: {loss: loss.squared_error, student: student.neck, teacher: calm, reduce: sum_of_means}\n"
    "  sharp: {loss: loss.squared_error, student: student.head.logits, teacher: sharp.head.logits, reduce: sum_of_means}\n"
)


def owners() -> dict[str, Any]:
    torch.manual_seed(0)
    return {"student": make_toy(), "large": make_toy(), "sharp": make_toy()}


def plan_of(text: str, detectors: dict[str, Any]) -> Plan:
    spec = parse_method(text, "test.yaml")
    return compile_method(spec.resolve(), spec.document, detectors, canvas=(16, 16))


def test_terms_and_nodes_name_each_teacher_and_run_what_they_need_of_it() -> None:
    detectors, data = owners(), toy_batch()
    plan = plan_of(TWO, detectors)
    assert plan.report.teacher_stages_run == (
        "large.backbone", "large.neck", "sharp.backbone", "sharp.neck", "sharp.head",
    )  # fmt: skip
    plan.eval()
    found = plan(data).raw
    models = {owner: detector.model.eval() for owner, detector in detectors.items()}
    necks = {o: [layer(model.backbone(data.images)) for layer in model.neck] for o, model in models.items()}
    expected = sum((s - t).square().mean() for s, t in zip(necks["student"], necks["large"], strict=True))
    torch.testing.assert_close(found["kd/large"], expected)
    logits = {o: [models[o].head(m) for m in necks[o]] for o in ("student", "sharp")}
    expected = sum((s - t).square().mean() for s, t in zip(logits["student"], logits["sharp"], strict=True))
    torch.testing.assert_close(found["kd/sharp"], expected)


def test_all_teachers_are_frozen_and_hidden() -> None:
    plan = plan_of(TWO, owners())
    plan(toy_batch()).total.backward()
    assert set(plan.teachers) == {"large", "sharp"}
    for teacher in plan.teachers.values():
        assert not any(module.training for module in teacher.modules())
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert {name.split(".")[0] for name in plan.state_dict()} == {"student"}


def test_one_of_several_teachers_may_learn_in_a_phase() -> None:
    text = HEAD + (
        "terms:\n"
        "  lesson: {value: large.losses.loss, at: cnn/head}\n"
        "  sharp: {loss: loss.squared_error, student: student.neck, teacher: sharp.neck, reduce: sum_of_means}\n"
        "phases:\n"
        '  - {name: first, steps: 0.5, terms: [lesson], train: ["large.*"]}\n'
        '  - {name: second, steps: 0.5, terms: ["det/*", sharp], init: [{student: "neck.*", source: sharp}]}\n'
    )
    plan = plan_of(text, owners())
    assert list(plan.learners) == ["large"]
    plan.begin("second")
    assert torch.equal(plan.student.neck[0].weight, plan.teachers["sharp"].neck[0].weight)
    assert not torch.equal(plan.student.head.weight, plan.teachers["sharp"].head.weight)


def test_a_method_without_a_teacher_has_terms_of_the_student_alone() -> None:
    text = HEAD + (
        "teacher: none\n"
        "nodes:\n  calm: {op: transform.detach, features: student.neck}\n"
        "terms:\n  steady: {loss: loss.squared_error, student: student.neck, teacher: calm, weight: 2, reduce: sum_of_means}\n"
    )
    plan = plan_of(text, {"student": make_toy()})
    assert plan.teachers == {}
    assert plan.report.teacher_stages_run == ()
    assert set(plan(toy_batch()).raw) == {"det/loss", "kd/steady"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("terms:\n  neck: {loss: loss.squared_error, student: student.neck, teacher: teacher.neck, reduce: sum_of_means}\n",
         'this run has no "teacher"; name one in the bench'),
        ('init: [{student: "*"}]\n', 'there is no "teacher" to inherit from; this run has no teacher'),
    ],
)  # fmt: skip
def test_naming_a_teacher_that_is_not_there_is_a_mistake(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan_of(HEAD + "teacher: none\n" + text, {"student": make_toy()})
    assert message in str(caught.value)
