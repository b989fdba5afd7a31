"""Teachers whose classes stand in another order, or are others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdflow.errors import SpecError, UsageError
from kdflow.graph.compile import compile_method
from kdflow.ports import DETECTORS, Batch
from kdflow.spec.resolve import parse_method
from tests.toy import make_toy

TEXT = (
    "kdflow: 1\nmethod: test\n"
    "terms:\n"
    "  head: {loss: loss.squared_error, student: student.head.logits, teacher: teacher.head.logits, reduce: sum_of_means}\n"
)


def test_scores_are_compared_class_by_class_by_name() -> None:
    torch.manual_seed(0)
    student, teacher = make_toy(classes=("a", "b")), make_toy(classes=("b", "a"))
    spec = parse_method(TEXT)
    plan = compile_method(spec.resolve(), spec.document, {"student": student, "teacher": teacher}, canvas=(16, 16))
    batch = Batch(torch.rand(1, 3, 16, 16), [(16, 16)], [torch.zeros(0, 4)], [torch.zeros(0).long()])
    found = plan.evaluate(batch, ["teacher.head.logits", "teacher.head.logits~classes", "student.head.logits", "kd/head"])
    raw, ours = found["teacher.head.logits"], found["teacher.head.logits~classes"]
    assert all(torch.equal(r.flip(-1), o) for r, o in zip(raw, ours))
    expected = sum((s - r.flip(-1)).square().mean() for s, r in zip(found["student.head.logits"], raw))
    torch.testing.assert_close(found["kd/head"], expected)
    assert plan.terms[1].nodes == ("cnn/head",)


def test_different_label_sets_are_refused_with_both_lists() -> None:
    spec = parse_method(TEXT)
    detectors = {"student": make_toy(classes=("a", "b")), "teacher": make_toy(classes=("a", "c"))}
    with pytest.raises(UsageError, match=r"(?s)student \(2\): a, b.*teacher \(2\): a, c"):
        compile_method(spec.resolve(), spec.document, detectors, canvas=(16, 16))


def tapped(module: str, order: tuple[str, ...]) -> Any:
    """A plan that compares the output of a module inside FCOS."""
    sides = f"student: student@{module}, teacher: teacher@{module}"
    text = f"kdflow: 1\nmethod: t\nterms:\n  a: {{loss: loss.squared_error, {sides}, reduce: sum_of_means}}\n"
    spec = parse_method(text)
    build, tiny = DETECTORS.get("fcos").build, DETECTORS.get("fcos").tiny
    detectors = {"student": build(("a", "b"), **tiny), "teacher": build(order, **tiny)}
    return compile_method(spec.resolve(), spec.document, detectors, canvas=(64, 64))


@pytest.mark.parametrize("module", ["head.classification_head.cls_logits", "head.classification_head"])
def test_a_tap_inside_a_teacher_of_another_class_order_is_refused_where_it_gives_classes(module: str) -> None:
    with pytest.raises(SpecError, match=rf"teacher@{module} has numbers per class.*read a port instead: teacher.head.logits"):
        tapped(module, ("b", "a"))


def test_other_taps_and_equal_orders_are_taken() -> None:
    tapped("head.classification_head.cls_logits", ("a", "b"))
    tapped("head.classification_head.conv.0", ("b", "a"))


def test_stacks_of_unequal_length_are_told_in_words_where_an_op_pairs_them_itself() -> None:
    text = "kdflow: 1\nmethod: t\nnodes:\n  r: {op: generator.review, features: student.neck, like: 'teacher.neck[0:1]'}\n"
    text += "terms:\n  a: {loss: loss.squared_error, student: 'r[0:1]', teacher: 'teacher.neck[0:1]', reduce: sum_of_means}\n"
    spec = parse_method(text)
    detectors = {"student": make_toy(), "teacher": make_toy()}
    with pytest.raises(SpecError, match=r"differ in length: student.neck has 2, teacher.neck\[0:1\] has 1; choose entries"):
        compile_method(spec.resolve(), spec.document, detectors, canvas=(16, 16))
