"""Checks of a compiled method: divisors, declared results, names, and terms that never count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import kdflow
from kdflow.errors import SpecError, UsageError
from kdflow.experiment.balance import silent_terms
from kdflow.kinds import AnyTensor, Map
from kdflow.operation import OPS, like, op
from kdflow.spec.bench import Recipe
from kdflow.spec.resolve import parse_method
from kdflow.spec.schedule import Progress, Schedule
from tests.graph.test_plan import faults, plan_of

HEAD = "kdflow: 1\nmethod: test\n"
TERM = HEAD + "terms:\n  neck: {loss: %s, student: student.neck, teacher: teacher.neck, reduce: sum_of_means}\n"


@op("loss.test_scalar", gives=like("student"))
def scalar(student: AnyTensor, teacher: AnyTensor) -> AnyTensor:
    """One number though elements are promised."""
    return (student - teacher).square().mean()


@op("loss.test_narrow", gives=like("student"))
def narrow(student: AnyTensor, teacher: AnyTensor) -> AnyTensor:
    """Fewer channels than promised."""
    return (student - teacher)[:, :1]


@op("transform.test_outputs", gives={"a": like("features"), "b": like("features")})
def outputs(features: Map) -> dict[str, Any]:
    """One output less than promised."""
    return {"a": features}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    yield
    for name in ("loss.test_scalar", "loss.test_narrow", "transform.test_outputs"):
        OPS._parts.pop(name, None)


def test_a_loss_that_gives_one_number_for_many_is_refused() -> None:
    words = faults(TERM % "loss.test_scalar")
    assert "test.yaml:4:3  terms.neck: loss.test_scalar does not keep its declaration" in words
    assert "declared as map (b, c, y, x) and is one number" in words


def test_a_loss_of_another_size_than_its_student_is_refused() -> None:
    assert "its result is declared to be like student" in faults(TERM % "loss.test_narrow")


def test_missing_outputs_are_refused() -> None:
    text = HEAD + "nodes: {n: {op: transform.test_outputs, features: student.neck}}\n"
    text += "terms: {neck: {loss: loss.l1, student: n.a, teacher: teacher.neck, reduce: sum_of_means}}\n"
    assert "declares the outputs a, b and gives a" in faults(text)


def test_a_divisor_of_one_number_per_image_is_taken_image_by_image() -> None:
    student, teacher = torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    text = HEAD + "terms: {neck: {loss: loss.l1, student: student.neck, teacher: teacher.neck, "
    text += "reduce: {over: [counts], scope: image}}}\nnodes: {counts: {op: stats.count, values: student.neck}}\n"
    values = {"student.neck": student, "teacher.neck": teacher, "counts": torch.tensor([2.0, 4.0])}
    kinds = {"student.neck": "map", "teacher.neck": "map", "counts": "image_values"}
    plan = kdflow.compile(parse_method(text), values=values, kinds=kinds)
    assert plan.evaluate({})["kd/neck"].item() == pytest.approx((48 / 2 + 48 / 4) / 2)


def test_given_values_need_no_losses_of_a_detector() -> None:
    text = TERM % "loss.l1" + "  det.loss_classifier: {weight: 0.5}\n"
    values = {"student.neck": [torch.ones(1, 2, 4, 4)], "teacher.neck": [torch.zeros(1, 2, 4, 4)]}
    assert kdflow.compile(parse_method(text), values=values).evaluate({})["kd/neck"].item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kinds": {"student.neck": "mapp"}}, 'no kind "mapp" for "student.neck". Did you mean "map"'),
        ({"kinds": {"student.nek": "map"}}, 'a kind is said for "student.nek", which is not given'),
        ({"kind": {}}, 'no option "kind" beside values. Did you mean "kinds"'),
    ],
)
def test_options_of_given_values_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as error:
        kdflow.compile(parse_method(TERM % "loss.l1"), values={"student.neck": [torch.ones(1, 2, 4, 4)]}, **options)
    assert words in str(error.value)


def test_a_term_with_sign_minus_is_subtracted() -> None:
    text = (TERM % "loss.l1").replace("teacher.neck,", "teacher.neck, weight: 2, sign: minus,")
    (term,) = [t for t in plan_of(text).terms if t.is_distillation]
    assert term.weight == -2


@pytest.mark.parametrize(
    ("schedule", "steps", "counts"),
    [
        ("{defer: 500}", 300, False),
        ("{defer: 299}", 300, True),
        ("{warmup: {steps: 10, zero: 400}}", 300, False),
        ("{defer: 100, stop: 50}", 300, False),
        ("{decay: linear}", 1, True),
    ],
)
def test_a_term_whose_schedule_is_zero_for_the_whole_run_is_found(schedule: str, steps: int, counts: bool) -> None:
    text = (TERM % "loss.l1").replace("teacher.neck,", f"teacher.neck, schedule: {schedule},")
    spec, plan = parse_method(text, "test.yaml"), plan_of(text)
    found = silent_terms(spec.resolve(), plan, spec.document, Recipe(steps=steps), steps, steps)
    assert [fault.path for fault in found] == ([] if counts else ["terms.neck.schedule"])
    assert all(f"0 at each of the {steps} steps" in fault.problem for fault in found)


def test_what_rests_is_known_at_every_step() -> None:
    plan = plan_of((TERM % "loss.l1").replace("teacher.neck,", "teacher.neck, schedule: {defer: 2},"))
    resting = []
    for step in range(4):
        plan.advance(step, 4, 4)
        resting.append("kd/neck" in plan.resting)
    assert resting == [True, True, False, False]


def test_a_product_of_schedules_may_count_nowhere() -> None:
    early, late = Schedule((("stop", (("after", 0.5),)),)), Schedule((("defer", (("until", 0.5),)),))
    assert early.ever_counts()
    assert late.ever_counts()
    assert not early.times(late).ever_counts()
    assert early.factor(Progress(0, 10, 10)) == 1


def test_share_without_weights_is_refused() -> None:
    text = HEAD + "nodes: {n: {op: transform.relu, features: student.neck, share: levels}}\n"
    with pytest.raises(SpecError, match=r"nodes\.n\.share: transform\.relu has no weights to share"):
        plan_of(text + "terms: {neck: {loss: loss.l1, student: n, teacher: teacher.neck, reduce: sum_of_means}}\n")
