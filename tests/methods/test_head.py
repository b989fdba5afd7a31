"""Properties of HEAD, on a small RetinaNet that learns from a small Faster R-CNN."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.graph.compile import compile_method
from kdflow.graph.plan import Plan
from kdflow.ports import Batch
from kdflow.spec.resolve import load_method
from tests.contracts.tiny_detectors import batch_for, detector_of
from tests.methods.shipped import SPECS

KD = ("kd/fc1", "kd/fc2", "kd/cross")


def plan_on(student: Any, teacher: Any, slug: str = "head", **changes: Any) -> Plan:
    spec = load_method(Path(SPECS) / f"{slug}.yaml", lambda name: SPECS / f"{name}.yaml")
    context = {f"{owner}.family": d.family for owner, d in (("student", student), ("teacher", teacher))}
    context |= {"student.detector": student.name, "teacher.detector": teacher.name}
    method = spec.resolve(context, changes)
    return compile_method(method, spec.document, {"student": student, "teacher": teacher}, canvas=(96, 96))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_on(detector_of("retinanet"), detector_of("faster-rcnn", 1))


@pytest.fixture(scope="module")
def batch() -> Batch:
    return batch_for("retinanet")


def gradients(loss: Tensor, plan: Plan, prefix: str) -> dict[str, Tensor | None]:
    named = {name: p for name, p in plan.named_parameters() if name.startswith(prefix) and p.requires_grad}
    assert named, prefix
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return dict(zip(named, found, strict=True))


def reached(loss: Tensor, plan: Plan, prefix: str) -> bool:
    return any(grad is not None and bool(grad.any()) for grad in gradients(loss, plan, prefix).values())


def test_an_assistant_like_the_teacher_on_equal_maps_leaves_nothing_to_learn(batch: Batch) -> None:
    teacher = detector_of("faster-rcnn", 1)
    student = copy.deepcopy(teacher)
    same = plan_on(student, teacher, **{"nodes.near_fc1.init": "identity", "nodes.near_fc2.init": "identity"})
    same.train(False)
    found = same.evaluate(batch, ["kd/fc1", "kd/fc2", "taught.fc2"])
    assert found["taught.fc2"].abs().max() > 0.01
    assert float(found["kd/fc1"].detach()) < 1e-9
    assert float(found["kd/fc2"].detach()) < 1e-9


def test_distillation_terms_warm_up_and_the_assistants_own_losses_do_not(plan: Plan, batch: Batch) -> None:
    raw = plan.evaluate(batch, [*KD, "kd/assistant_classes", "kd/assistant_boxes"])
    for step, part in ((0, 0.0), (1000, 0.5), (2000, 1.0), (50_000, 1.0)):
        plan.advance(step, 90_000, 1000)
        weighted = plan.weigh(raw)
        for name in KD:
            torch.testing.assert_close(weighted[name], 2 * part * raw[name])
        assert weighted["kd/assistant_classes"].equal(raw["kd/assistant_classes"])


def test_the_student_keeps_exactly_its_own_parameters(plan: Plan) -> None:
    plain = detector_of("retinanet").model
    assert {k: v.shape for k, v in plan.student.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    assert {name.split(".")[1] for name, _ in plan.named_parameters() if name.startswith("ops.")} >= {"assistant", "near_fc1"}


def test_the_cross_term_reaches_sampled_sources_only(plan: Plan, batch: Batch) -> None:
    names = ["kd/cross", "student.head.cls_tower", "source.image", "source.cell", "source.found"]
    found = plan.evaluate(batch, names)
    tower = found["student.head.cls_tower"]
    grads = torch.autograd.grad(found["kd/cross"], tower, retain_graph=True)
    flat = torch.cat([g.flatten(2) for g in grads], dim=2).abs().sum(1)
    sourced = torch.zeros_like(flat, dtype=torch.bool)
    traced = found["source.found"] > 0
    assert traced.any()
    assert not traced.all()                     # ground truth is among the sampled boxes
    sourced[found["source.image"][traced], found["source.cell"][traced]] = True
    assert not flat[~sourced].any()
    assert flat[sourced].any()
    assert not reached(found["kd/cross"], plan, "ops.assistant")


def test_assistant_terms_reach_the_backbone_and_not_the_students_head(plan: Plan, batch: Batch) -> None:
    found = plan.evaluate(batch, ["kd/fc2", "kd/assistant_classes"])
    for loss in found.values():
        assert reached(loss, plan, "student.backbone")
        assert not reached(loss, plan, "student.head")
        assert reached(loss, plan, "ops.assistant")


def test_sources_are_the_cells_that_proposed_the_boxes(plan: Plan, batch: Batch) -> None:
    found = plan.evaluate(batch, ["source.image", "source.cell", "student.head.boxes", "student.neck", "sampled.boxes"])
    boxes, decoded = torch.cat(found["sampled.boxes"]), torch.cat(found["student.head.boxes"], dim=1).detach()
    cells = sum(m.shape[-2] * m.shape[-1] for m in found["student.neck"])
    traced = found["source.cell"] >= 0
    image, cell = found["source.image"][traced], found["source.cell"][traced]
    of_cell = decoded.unflatten(1, (cells, -1))[image, cell]                       # boxes of all anchors of the cell
    sizes = torch.tensor([[w, h] * 2 for h, w in batch.image_sizes])[image].float()
    clipped = of_cell.clamp(min=0).minimum(sizes[:, None])
    assert ((clipped - boxes[traced][:, None]).abs().amax(-1).amin(-1) < 1e-3).all()


def test_without_sources_the_cross_term_is_zero(plan: Plan, batch: Batch) -> None:
    found = plan.evaluate(batch, ["source.found"])
    values = {**batch.values(), "source.found": torch.zeros_like(found["source.found"])}
    cross = plan.evaluate(values, ["kd/cross"])["kd/cross"]
    assert not cross.detach()
    grads = gradients(cross, plan, "student.")
    assert all(grad is None or torch.isfinite(grad).all() for grad in grads.values())


@pytest.mark.parametrize("teacher", ["retinanet", "fcos"])
def test_a_dense_teacher_gives_a_dense_assistant(teacher: str, batch: Batch) -> None:
    plan = plan_on(detector_of("retinanet"), detector_of(teacher, 1), "head-dense")
    outcome = plan(batch)
    assert {"kd/classes", "kd/boxes"} <= set(outcome.raw)
    assert all(torch.isfinite(value) and value > 0 for name, value in outcome.raw.items() if name.startswith("kd/"))
    assert reached(outcome.raw["kd/classes"], plan, "ops.assistant")
    assert reached(outcome.raw["kd/assistant_boxes"], plan, "student.backbone")
