"""Teachers whose classes stand in another order, or are others."""

from __future__ import annotations

import pytest
import torch

from kdflow.errors import UsageError
from kdflow.graph.compile import compile_method
from kdflow.ports import Batch
from kdflow.spec.resolve import parse_method
from tests.toy import make_toy

TEXT = (
    "kdflow: 1\nmethod: test\n"
    "terms:\n  head: {loss: loss.squared_error, student: student.head.logits, teacher: teacher.head.logits}\n"
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
