"""Frozen teachers as programs: equal up to rounding, made of copies, and only where that is possible."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from kdflow.graph import program
from kdflow.graph.compile import compile_method
from kdflow.graph.plan import Plan
from kdflow.graph.program import Captured, Program, fold, folded
from kdflow.spec.resolve import parse_method
from tests.contracts.tiny_detectors import NAMES, batch_for, detector_of

NECK = (
    "kdflow: 1\nmethod: t\nterms:\n"
    "  neck: {loss: loss.squared_error, student: student.neck, teacher: teacher.neck, reduce: sum_of_means}\n"
)


def plan_of(name: str, text: str = NECK) -> Plan:
    spec = parse_method(text, "test.yaml")
    detectors: dict[str, Any] = {"student": detector_of(name, 1), "teacher": detector_of(name, 2)}
    return compile_method(spec.resolve(), spec.document, detectors, canvas=(96, 96))


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_with_programs_gives_the_same_losses_up_to_rounding(name: str) -> None:
    plan, batch = plan_of(name), batch_for(name)
    plan.advance(0, 10, 5)
    before = {key: value.clone() for key, value in plan.teachers["teacher"].state_dict().items()}
    plain = plan(batch).raw
    named = plan.quicken()
    assert {plan.graph[node].owner for node in named} == {"teacher"}
    found = plan(batch).raw
    assert "backbone" in {plan.graph[node].stage for node in named}
    torch.testing.assert_close(found["kd/neck"], plain["kd/neck"], rtol=1e-3, atol=1e-5)
    ahead = plan.ahead()
    assert "self.teacher_" not in plan.code
    assert torch.equal(plan(ahead(batch)).raw["kd/neck"], found["kd/neck"]), "one batch ahead, to the same bits"
    after = plan.teachers["teacher"].state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items()), "the teacher itself stays as it is"


def programs(plan: Plan) -> dict[str, Program]:
    return {node.stage: node.module.program for node in plan.graph.ordered() if getattr(node.module, "program", None)}


def test_norms_of_a_residual_network_are_gone() -> None:
    plan, batch = plan_of("retinanet"), batch_for("retinanet")
    plan.quicken()
    plan.advance(0, 10, 5)
    plan(batch)
    body = programs(plan)["backbone"]
    (stage,) = body._made.values()
    norms = [m for m in stage.modules() if type(m).__name__.endswith("BatchNorm2d")]
    assert not norms
    assert next(p for p in stage.parameters() if p.dim() == 4 and p.shape[1] > 1).is_contiguous(memory_format=torch.channels_last)


def test_weights_are_kept_in_the_precision_of_the_pass() -> None:
    plan, batch = plan_of("retinanet"), batch_for("retinanet")
    plan.advance(0, 10, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = plan(batch).raw["kd/neck"]
        plan.quicken()
        found = plan(batch).raw["kd/neck"]
    torch.testing.assert_close(found, plain, rtol=5e-2, atol=1e-3)
    body = programs(plan)["backbone"]
    assert list(body._made) == [torch.bfloat16]
    assert {p.dtype for p in body._made[torch.bfloat16].parameters()} == {torch.bfloat16}


def test_a_tapped_stage_stays_as_it_is() -> None:
    text = NECK + "  inside: {loss: loss.squared_error, student: 'student@PATH', teacher: 'teacher@PATH', reduce: sum_of_means}\n"
    path = "backbone.body.layer1.0.conv1"
    plan = plan_of("retinanet", text.replace("PATH", path))
    assert "backbone" not in {plan.graph[name].stage for name in plan.quicken()}
    plan.advance(0, 10, 5)
    assert plan(batch_for("retinanet")).raw["kd/inside"] > 0


class Twice(nn.Module):
    """The convolution's output is read by its norm, and by somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        nn.init.constant_(self.norm.running_mean, 0.5)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raw = self.conv(x)
        return self.norm(raw) + raw


def test_a_fold_that_would_change_the_result_is_not_made() -> None:
    torch.manual_seed(0)
    stage, x = Twice().eval(), torch.rand(1, 3, 4, 4)
    found = folded(stage, {"x": x}, "cpu")
    assert isinstance(found.norm, nn.BatchNorm2d)
    assert torch.equal(found(x), stage(x))


@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_convolution_by_its_formula(bias: bool) -> None:
    torch.manual_seed(0)
    conv, norm, x = nn.Conv2d(3, 5, 3, bias=bias), nn.BatchNorm2d(5), torch.rand(2, 3, 6, 6)
    for value in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
        value.uniform_(0.5, 2)  # type: ignore[union-attr]
    expected = norm.eval()(conv(x))
    fold(conv, norm)
    torch.testing.assert_close(conv(x), expected)


def test_gradients_pass_through_to_what_a_program_is_called_with() -> None:
    torch.manual_seed(0)
    stage = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval().requires_grad_(False)
    x = torch.rand(1, 3, 4, 4, requires_grad=True)
    (expected,) = torch.autograd.grad(stage(x).sum(), x)
    (found,) = torch.autograd.grad(Program(_Named(stage))(features=x).sum(), x)
    torch.testing.assert_close(found, expected)


class _Named(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.inner(features)


class Played:
    """Stands for a CUDA graph: played, it computes from the memory that it was recorded with."""

    def __init__(self, stage: nn.Module, kept: list[torch.Tensor]) -> None:
        self.stage, self.kept, self.found, self.plays = stage, kept, {"maps": torch.zeros(0)}, 0

    def replay(self) -> None:
        self.plays += 1
        self.found["maps"].set_(self.stage(self.kept[0]))  # type: ignore[arg-type]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[Played]:
    """Captures without a GPU; returns what was recorded. ``stream`` on it is the number of the present stream."""
    made: list[Played] = []

    def record(self: Captured, leaves: list[Any], form: Any) -> Any:
        kept = [leaf.clone() for leaf in leaves]
        made.append(Played(lambda x: 2 * x, kept))  # type: ignore[arg-type]
        return made[-1], kept, made[-1].found

    monkeypatch.setattr(Captured, "_record", record)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=STREAM[0]))
    STREAM[0] = 0
    return made


STREAM = [0]


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"maps": 2 * x}


def test_a_shape_is_recorded_when_it_has_come_often(gpu: list[Played]) -> None:
    captured, x = Captured(Doubled()), torch.arange(3.0)
    results = [captured(x=x + turn)["maps"] for turn in range(5)]
    assert [len(gpu), gpu[0].plays] == [1, 3]
    assert all(torch.equal(found, 2 * (x + turn)) for turn, found in enumerate(results)), "each has its own memory"
    captured(x=torch.zeros(4))
    assert len(gpu) == 1, "another shape counts by itself"


def test_each_stream_has_graphs_of_its_own(gpu: list[Played]) -> None:
    captured, x = Captured(Doubled()), torch.ones(3)
    for STREAM[0] in (1, 2):
        for _ in range(3):
            captured(x=x)
    assert [played.plays for played in gpu] == [1, 1]


def test_not_every_shape_has_a_graph(gpu: list[Played], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MOST", 2)
    captured = Captured(Doubled())
    for size in range(1, 5):
        for _ in range(4):
            assert torch.equal(captured(x=torch.ones(size))["maps"], torch.full((size,), 2.0))
    assert len(gpu) == 2


def test_where_a_gradient_passes_nothing_is_played(gpu: list[Played]) -> None:
    captured, x = Captured(Doubled()), torch.ones(3, requires_grad=True)
    for _ in range(4):
        captured(x=x)["maps"].sum().backward()
    assert gpu == []
    assert torch.equal(x.grad, torch.full((3,), 8.0))  # type: ignore[arg-type]
