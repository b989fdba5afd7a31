"""Activations that are computed twice: the same numbers from less memory, and statistics that are moved once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdflow.errors import UsageError
from kdflow.graph.compile import compile_method
from kdflow.graph.dense import dense_parts
from kdflow.graph.plan import Plan
from kdflow.graph.recompute import Recomputed, blocks_of, recompute_blocks
from kdflow.spec.resolve import parse_method
from tests.contracts.test_host_reads import NECK
from tests.contracts.tiny_detectors import batch_for, detector_of
from tests.toy import toys


def plan_of(detectors: dict[str, Any], text: str = NECK, side: int = 96) -> Plan:
    spec = parse_method(text, "test.yaml")
    torch.manual_seed(3)
    return compile_method(spec.resolve(), spec.document, detectors, canvas=(side, side))


def step(plan: Plan, name: str) -> tuple[dict[str, Tensor], int]:
    """Losses, gradients and buffers of a step in training mode, and the bytes that its forward keeps."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    plan.advance(0, 10, 5)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outcome = plan(batch_for(name))
    outcome.total.backward()
    gradients = {key: p.grad for key, p in plan.named_parameters() if p.grad is not None}
    return {**outcome.raw, **gradients, **dict(plan.student.named_buffers())}, sum(kept.values())


@pytest.mark.parametrize("name", ["faster-rcnn", "rt-detr", "detr"])
def test_a_step_has_the_same_numbers_from_less_memory(name: str) -> None:
    detectors = {"student": detector_of(name, 1), "teacher": detector_of(name, 2)}
    plain, own = plan_of(copy.deepcopy(detectors)), plan_of(detectors)
    for norm in [m for plan in (plain, own) for m in plan.student.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.momentum = 0.1
    assert own.recompute()
    assert own.state_dict().keys() == plain.state_dict().keys()
    expected, most = step(plain, name)
    found, kept = step(own, name)
    assert found.keys() == expected.keys()
    assert [key for key, value in expected.items() if not torch.equal(found[key], value)] == []
    assert kept < 0.8 * most


class Block(nn.Module):
    """Two layers, and random numbers between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, momentum=None)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.norm(self.conv(x)), 0.5)


def run(layers: nn.Module) -> list[Tensor]:
    torch.manual_seed(1)
    x = torch.rand(2, 2, 4, 4, requires_grad=True)
    for _ in range(2):
        layers(x).square().sum().backward()
    return [x.grad, *(p.grad for p in layers.parameters()), *layers.buffers()]  # type: ignore[list-item]


def test_draws_and_statistics_are_those_of_one_pass() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(Block(), Block())
    own = copy.deepcopy(plain)
    assert recompute_blocks(own) == ("0", "1")
    assert all(torch.equal(a, b) for a, b in zip(run(own), run(plain), strict=True))


def test_a_copy_recomputes_itself() -> None:
    layers = nn.Sequential(Block(), Block())
    recompute_blocks(layers)
    other = copy.deepcopy(layers)
    assert isinstance(other[0].forward, Recomputed)
    assert other[0].forward.block is other[0]
    assert other[0].forward.forward.__self__ is other[0]


def test_blocks_are_members_of_several_alike() -> None:
    nested = nn.Sequential(nn.ModuleList([nn.Sequential(Block(), Block()), nn.Conv2d(1, 1, 1)]), Block(), nn.ReLU())
    assert [name for name, _ in blocks_of(nested)] == ["0.0.0", "0.0.1"]


def test_a_student_without_blocks_is_told_so() -> None:
    plan = plan_of(toys(), side=16)
    with pytest.raises(UsageError, match=r"recipe\.checkpoint_activations: the student has no repeated blocks"):
        plan.recompute()


def test_what_runs_again_is_not_compiled() -> None:
    plan = plan_of({"student": detector_of("faster-rcnn", 1), "teacher": detector_of("faster-rcnn", 2)})
    before = {name for name, _ in dense_parts(plan.graph)}
    plan.recompute()
    assert before - {name for name, _ in dense_parts(plan.graph)} == {"student:backbone"}
