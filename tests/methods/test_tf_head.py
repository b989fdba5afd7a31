"""Properties of TF-HEAD, on a small RetinaNet with an FCOS and an R-CNN assistant, and the other way round."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.graph.compile import compile_method
from kdflow.graph.plan import Plan
from kdflow.ports import DETECTORS, Batch
from kdflow.spec.resolve import load_method
from tests.contracts.tiny_detectors import CLASSES, batch_for
from tests.methods.shipped import SPECS

SMALL = {"modules.rcnn.build.box_head": 24, "modules.rcnn.build.roi_samples": 16, "nodes.proposed.k": 40}
SELF = ("kd/self_other", "kd/self_rcnn")
DROP = 60_000


@functools.cache
def built(name: str) -> Any:
    torch.manual_seed(2)
    family = DETECTORS.get(name)
    return family.build(CLASSES, **{**family.tiny, "neck": 64, "backbone": "timm:test_resnet"})


def plan_on(name: str) -> Plan:
    student = copy.deepcopy(built(name))
    spec = load_method(SPECS / "tf-head.yaml", lambda other: SPECS / f"{other}.yaml")
    method = spec.resolve({"student.family": "dense", "student.detector": name}, SMALL)
    plan = compile_method(method, spec.document, {"student": student}, canvas=(96, 96))
    plan.lr_drop = DROP
    return plan


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_on("retinanet")


@pytest.fixture(scope="module")
def batch() -> Batch:
    return batch_for("retinanet")


@pytest.fixture(scope="module")
def raw(plan: Plan, batch: Batch) -> dict[str, Tensor]:
    return plan(batch).raw


def reached(loss: Tensor, plan: Plan, prefix: str) -> bool:
    named = {name: p for name, p in plan.named_parameters() if name.startswith(prefix) and p.requires_grad}
    assert named, prefix
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return any(grad is not None and bool(grad.any()) for grad in found)


def test_it_begins_as_the_plain_student_and_stops_imitating_when_the_rate_drops(plan: Plan, raw: dict[str, Tensor]) -> None:
    own = [name for name in raw if name.startswith("kd/") and name not in SELF]
    assert len(own) == 5
    for step, warm, imitated in ((0, 0.0, True), (1000, 0.5, True), (2000, 1.0, True), (DROP - 1, 1.0, True), (DROP, 1.0, False)):
        plan.advance(step, 90_000, 1000)
        weighted = plan.weigh(raw)
        for name, weight in (("kd/self_other", 1.0), ("kd/self_rcnn", 1.3)):
            torch.testing.assert_close(weighted[name], raw[name] * weight * warm * imitated)
        for name in own:
            torch.testing.assert_close(weighted[name], raw[name] * warm * (0.5 if "other" in name else 1.0))


def test_imitation_reaches_the_class_tower_and_neither_assistants_nor_boxes(plan: Plan, raw: dict[str, Tensor]) -> None:
    for name in SELF:
        assert reached(raw[name], plan, "student.head.classification_head.conv")
        assert reached(raw[name], plan, "student.backbone")
        assert not reached(raw[name], plan, "ops.other")
        assert not reached(raw[name], plan, "ops.rcnn")
        assert not reached(raw[name], plan, "student.head.regression_head")


def test_assistants_learn_from_ground_truth_and_teach_the_maps_below(plan: Plan, raw: dict[str, Tensor]) -> None:
    for name, own in (("kd/other_classes", "ops.other"), ("kd/other_centers", "ops.other"), ("kd/rcnn_classes", "ops.rcnn")):
        assert reached(raw[name], plan, own)
        assert reached(raw[name], plan, "student.backbone")
        assert not reached(raw[name], plan, "student.head")


def test_towers_alike_leave_nothing_to_imitate(plan: Plan, batch: Batch) -> None:
    tower = plan.evaluate(batch, ["student.head.cls_tower"])["student.head.cls_tower"]
    alike = plan.evaluate({**batch.values(), "near_other": tower, "other_tower": tower}, ["kd/self_other"])
    assert alike["kd/self_other"] == 0


def test_levels_are_summed(plan: Plan, batch: Batch, raw: dict[str, Tensor]) -> None:
    found = plan.evaluate(batch, ["near_other", "other.head.cls_tower"])
    by_hand = sum((a - b).square().mean() for a, b in zip(found["near_other"], found["other.head.cls_tower"], strict=True))
    torch.testing.assert_close(raw["kd/self_other"], by_hand)


def test_without_sources_there_is_nothing_to_imitate(plan: Plan, batch: Batch) -> None:
    found = plan.evaluate(batch, ["source.found"])["source.found"]
    assert found.any()
    term = plan.evaluate({**batch.values(), "source.found": torch.zeros_like(found)}, ["kd/self_rcnn"])["kd/self_rcnn"]
    assert term == 0
    grads = torch.autograd.grad(term, [p for p in plan.student.parameters() if p.requires_grad], allow_unused=True)
    assert all(grad is None or torch.isfinite(grad).all() for grad in grads)


def test_the_student_keeps_exactly_its_own_parameters(plan: Plan) -> None:
    assert plan.student.state_dict().keys() == built("retinanet").model.state_dict().keys()
    added = {name.split(".")[1] for name, _ in plan.named_parameters() if name.startswith("ops.")}
    assert added == {"other", "rcnn", "near_other", "near_rcnn"}


def test_an_fcos_student_has_a_retinanet_assistant(batch: Batch) -> None:
    plan = plan_on("fcos")
    raw = plan(batch).raw
    assert plan.graph["other:head.towers"].run is not None
    assert {name for name in raw if name.startswith("kd/other")} == {"kd/other_classes", "kd/other_boxes"}
    assert all(torch.isfinite(value) and value > 0 for name, value in raw.items() if name.startswith("kd/"))
