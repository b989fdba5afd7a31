"""What every registered detector promises when a method calls its stages with other inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.kinds import PYRAMID
from kdflow.ports import Detector
from tests.contracts.tiny_detectors import NAMES, batch_for, detector_of
from tests.detectors.staging import run_call, run_stages

each = pytest.mark.parametrize("name", NAMES)


def port_behind(detector: Detector, target: str) -> str:
    """The port that an input of a call replaces, or that feeds the argument it replaces."""
    stage, _, argument = target.partition(":")
    return detector.stages[stage].reads[argument] if argument else target


def leaves(value: Any) -> Iterator[Tensor]:
    """All tensors of a nested value."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from leaves(value[key])
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from leaves(entry)


def assert_equal(found: Any, wanted: Any, place: Any) -> None:
    ours, theirs = list(leaves(found)), list(leaves(wanted))
    assert len(ours) == len(theirs), place
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs)), place


@each
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_call_on_its_owners_values_repeats_them_bit_for_bit(name: str, training: bool) -> None:
    detector, batch = detector_of(name), batch_for(name)
    detector.model.train(training)
    with torch.no_grad():
        values = run_stages(detector, batch, seed=3)
        for call_name, call in detector.calls.items():
            for argument, target in call.inputs.items():
                own = {argument: values[port_behind(detector, target)]}
                found = run_call(detector, call_name, values, seed=3, **own)
                for output, port in call.outputs.items():
                    assert_equal(found[output], values[port], (call_name, argument, output))


def feature_calls(detector: Detector) -> Iterator[tuple[str, str]]:
    """Calls that run on other maps, and the port that these replace."""
    for name, call in detector.calls.items():
        port = port_behind(detector, call.inputs.get("features", "images"))
        if port in detector.ports and detector.ports[port].kind == PYRAMID:
            yield name, port


@each
def test_gradient_crosses_foreign_stages_to_the_students_maps_and_leaves_the_teacher_alone(name: str) -> None:
    student, teacher, batch = detector_of(name, 1), detector_of(name, 2), batch_for(name)
    teacher.model.requires_grad_(False).eval()
    student.model.train()
    ours, theirs = run_stages(student, batch, seed=1), run_stages(teacher, batch, seed=1)
    calls = list(feature_calls(teacher))
    assert calls
    for call, port in calls:
        student.model.zero_grad()
        maps = [m.detach().requires_grad_() for m in ours[port]]
        crossed = run_call(teacher, call, theirs, seed=1, features=maps)
        trained = [t for t in leaves(crossed) if t.requires_grad and t.numel()]
        assert trained, call
        torch.stack([t.float().square().mean() for t in trained]).sum().backward()
        assert any(m.grad is not None and m.grad.abs().max() > 0 for m in maps), call
        assert all(p.grad is None for p in teacher.model.parameters()), call
        torch.autograd.backward(
            [m for m, g in zip(ours[port], maps) if g.grad is not None],
            [g.grad for g in maps if g.grad is not None],
            retain_graph=True,
        )
        reached = {n for n, p in student.model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        body = {id(p) for p in student.stages["backbone"].run.parameters()}
        assert any(id(p) in body for n, p in student.model.named_parameters() if n in reached), call
        heads = {n for n in reached if n.startswith(("head.", "rpn.", "roi_heads.", "bbox_embed", "class_embed"))}
        assert not heads, call


@each
def test_foreign_maps_give_what_their_owners_stages_would_on_them(name: str) -> None:
    """The stages of a detector with the weights of another one, on its own maps: calls hand over the maps and nothing else."""
    student, teacher, batch = detector_of(name, 1), detector_of(name, 2), batch_for(name)
    for detector in (student, teacher):
        detector.model.eval()
    with torch.no_grad():
        ours, theirs = run_stages(student, batch, seed=1), run_stages(teacher, batch, seed=1)
        for call, port in feature_calls(teacher):
            crossed = run_call(teacher, call, theirs, seed=1, features=ours[port])
            kept = {"roi__boxes": theirs["roi.boxes"]} if call == "roi" else {}
            whole = run_stages(teacher, batch, seed=1, **{port.replace(".", "__"): ours[port], **kept})
            for output, source in teacher.calls[call].outputs.items():
                assert_equal(crossed[output], whole[source], (call, output))
