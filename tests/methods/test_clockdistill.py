"""Properties of CLoCKDistill, on small two-stage Deformable DETRs."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.graph.compile import compile_method
from kdflow.graph.plan import Plan
from kdflow.ports import Batch
from kdflow.spec.resolve import load_method
from tests.detectors import hf_tiny
from tests.methods.shipped import SPECS

QUERIED = ("kd/classes", "kd/boxes", "kd/giou")
MEMORY = ("kd/memory_objects", "kd/memory_rest")
SIZES = [hf_tiny.CANVAS] * 2


def plan_on(student: Any, teacher: Any, **changes: Any) -> Plan:
    spec = load_method(SPECS / "clockdistill.yaml", lambda name: SPECS / f"{name}.yaml")
    context = {f"{owner}.family": "transformer" for owner in ("student", "teacher")}
    context |= {f"{owner}.detector": "deformable-detr" for owner in ("student", "teacher")}
    method, detectors = spec.resolve(context, changes), {"student": student, "teacher": teacher}
    return compile_method(method, spec.document, detectors, canvas=hf_tiny.CANVAS)


def detr(seed: int = 0) -> Any:
    return hf_tiny.build("deformable-detr", seed, two_stage=True)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_on(detr(), detr(1)).train(False)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return hf_tiny.make_batch((2, 1), sizes=[hf_tiny.CANVAS, (64, 96)])


def with_boxes(batch: Batch, *boxes: Tensor) -> Batch:
    return replace(batch, boxes=list(boxes), labels=[torch.zeros(len(own), dtype=torch.long) for own in boxes])


NONE = torch.zeros(0, 4)


def test_models_alike_leave_nothing_to_learn(batch: Batch) -> None:
    one = detr()
    raw = plan_on(one, copy.deepcopy(one)).train(False)(batch).raw
    for name in (*QUERIED, *MEMORY):
        assert abs(float(raw[name].detach())) < 1e-6


def test_without_objects_all_of_the_picture_is_background_and_nothing_is_asked(plan: Plan, batch: Batch) -> None:
    empty = with_boxes(batch, NONE, NONE)
    found = plan.evaluate(empty, ["objects", "rest", "shown", *QUERIED, *MEMORY])
    for name in (*QUERIED, "kd/memory_objects"):
        assert found[name] == 0
    for rest, shown in zip(found["rest"], found["shown"], strict=True):
        torch.testing.assert_close(rest, shown / shown.sum((1, 2, 3), keepdim=True))     # padding belongs to neither mask
    assert not found["shown"][0][1].all()


def test_a_box_over_everything_weighs_all_cells_alike(plan: Plan, batch: Batch) -> None:
    whole = torch.tensor([[0.0, 0.0, hf_tiny.CANVAS[1], hf_tiny.CANVAS[0]]])
    full = replace(with_boxes(batch, whole, whole), image_sizes=SIZES)
    found = plan.evaluate(full, ["memory", "teacher.encoder.memory", *MEMORY])
    assert found["kd/memory_rest"] == 0
    by_hand = sum(
        (a - b).square().sum(1).mean() for a, b in zip(found["memory"], found["teacher.encoder.memory"], strict=True)
    )
    torch.testing.assert_close(found["kd/memory_objects"], by_hand)


def test_objects_count_alike_whatever_their_size(plan: Plan, batch: Batch) -> None:
    boxes = torch.tensor([[0.0, 0.0, 32.0, 32.0], [64.0, 32.0, 128.0, 96.0]])
    found = plan.evaluate(with_boxes(batch, boxes, NONE), ["objects"])["objects"]
    for mask in found[:2]:                                                                # strides 8 and 16: no shared cells
        half = mask.shape[-1] // 2
        torch.testing.assert_close(mask[0, ..., :half].sum(), torch.tensor(1.0))
        torch.testing.assert_close(mask[0, ..., half:].sum(), torch.tensor(1.0))
    assert all(mask[0].any() for mask in found)                                           # a small box marks one cell at least


def test_memory_outside_of_all_boxes_learns_from_the_second_term_alone(plan: Plan, batch: Batch) -> None:
    found = plan.evaluate(batch, ["student.encoder.memory", "objects", "kd/memory_objects"])
    grads = torch.autograd.grad(found["kd/memory_objects"], found["student.encoder.memory"])
    for grad, mask in zip(grads, found["objects"], strict=True):
        assert not (grad * (mask == 0)).any()
        assert (grad * mask).any()


def test_an_image_is_asked_the_same_beside_a_fuller_one(plan: Plan, batch: Batch) -> None:
    def states(*boxes: Tensor) -> Tensor:
        return torch.stack(plan.evaluate(with_boxes(batch, *boxes), ["ours.logits"])["ours.logits"])[:, 1, : len(boxes[1])]

    few, many = torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.rand(5, 2).repeat(1, 2) * 30 + torch.tensor([0.0, 0.0, 20.0, 20.0])
    torch.testing.assert_close(states(few, few), states(many, few), rtol=1e-5, atol=1e-6)


def test_queries_of_the_student_itself_are_not_reached(batch: Batch) -> None:
    plan = plan_on(hf_tiny.build("dab-detr"), hf_tiny.build("dab-detr", 1)).train(False)
    raw = plan(batch).raw
    named = dict(plan.student.named_parameters())
    own = [named["model.query_refpoint_embeddings.weight"]]
    decoder = [p for name, p in named.items() if "decoder.layers" in name and p.requires_grad]
    for name in QUERIED:
        assert all(grad is None for grad in torch.autograd.grad(raw[name], own, allow_unused=True, retain_graph=True))
        reached = torch.autograd.grad(raw[name], decoder, allow_unused=True, retain_graph=True)
        assert any(grad is not None and grad.any() for grad in reached)
