"""A teacher's maps whose sizes alone are read are not made."""

from __future__ import annotations

import pytest

from kdflow.graph.compile import compile_method
from kdflow.graph.plan import Plan
from kdflow.spec.resolve import parse_method
from tests.contracts.tiny_detectors import batch_for, detector_of
from tests.detectors.library import make_batch

SPEC = """kdflow: 1
method: test
terms:
  places: {{loss: loss.l1, student: student.{port}, teacher: teacher.{port}, reduce: sum, at: cnn/rpn-roi}}
"""
SCORES = "  scores: {loss: loss.l1, student: student.head.logits, teacher: teacher.head.logits, reduce: sum}\n"


def plan_of(name: str, more: str = "") -> Plan:
    spec = parse_method(SPEC.format(port="rpn.anchors" if name == "faster-rcnn" else "head.priors") + more)
    detectors = {"student": detector_of(name, 0), "teacher": detector_of(name, 1)}
    plan = compile_method(spec.resolve(), spec.document, detectors, canvas=(96, 96))
    plan.advance(0, 10, 5)
    return plan


@pytest.mark.parametrize("name", ["retinanet", "fcos", "gfl", "yolox", "faster-rcnn"])
def test_priors_alone_run_no_backbone_and_stand_where_the_students_do(name: str) -> None:
    plan = plan_of(name)
    assert {"teacher.backbone", "teacher.neck"} <= set(plan.report.teacher_stages_pruned)
    for batch in (batch_for(name), make_batch((1, 2), ((64, 128), (64, 128)))):
        assert plan(batch).raw["kd/places"].item() == 0


def test_maps_are_made_where_their_values_are_read_too() -> None:
    plan = plan_of("retinanet", SCORES)
    assert {"teacher.backbone", "teacher.neck"} <= set(plan.report.teacher_stages_run)
    assert plan(batch_for("retinanet")).raw["kd/places"].item() == 0


def test_maps_are_made_where_their_sizes_do_not_follow_from_the_canvas() -> None:
    plan = plan_of("ssd")
    assert "teacher.neck" in plan.report.teacher_stages_run
    assert plan(batch_for("ssd")).raw["kd/places"].item() == 0
