"""Fast mode of the engine: the losses of exact mode, one batch ahead, resumed to the same weights, and no waits of its own."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from kdflow.engine.ahead import Ahead
from kdflow.engine.checkpoint import LAST, read
from kdflow.engine.loop import FitResult, train_step
from kdflow.engine.machine import Machine
from kdflow.engine.phases import lay_out
from kdflow.engine.training import Training
from kdflow.errors import UsageError
from tests.contracts.host_reads import HostReads
from tests.engine.fakes import differences, fit
from tests.engine.toy_plan import toy_loader, toy_plan, toy_recipe


def run(folder: Path, machine: Machine, plan: Any = None, **changes: Any) -> FitResult:
    plan = plan or toy_plan()
    return fit(plan, toy_loader, toy_recipe(**changes), folder=folder, total_steps=9, steps_per_epoch=4, seed=7, device=machine)


class Killed(BaseException):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def alone(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("alone")
    result = run(folder, machine, fast=True)
    return {"state": read(folder / LAST), "result": result}


def test_losses_are_those_of_exact_mode_up_to_rounding(alone: dict[str, Any], machine: Machine, tmp_path: Path) -> None:
    exact = run(tmp_path, machine, channels_last=True)
    for own, expected in zip(alone["result"].history, exact.history, strict=True):
        assert own.raw == pytest.approx(dict(expected.raw), rel=1e-3)


def test_a_killed_run_goes_on_to_the_same_bits(alone: dict[str, Any], machine: Machine, tmp_path: Path) -> None:
    plan, steps = toy_plan(), iter(range(6))
    plan.register_forward_pre_hook(lambda *_: None if next(steps, None) is not None else dying())

    def dying() -> None:
        raise Killed

    with pytest.raises(Killed):
        run(tmp_path, machine, plan, fast=True)
    result = run(tmp_path, machine, fast=True)
    assert result.resumed_from_step == 4
    assert differences(read(tmp_path / LAST), alone["state"]) == []


def training(machine: Machine, steps: int = 9, **changes: Any) -> Training:
    made = Training(toy_plan(), toy_recipe(**changes), machine, lay_out((), steps), 4)
    made.enter(0)
    made.open(toy_loader)
    return made


def test_the_teacher_sees_the_next_batch_before_the_student_sees_the_present_one(machine: Machine) -> None:
    made, seen = training(machine, steps=3, fast=True), []
    assert isinstance(made.batches, Ahead)
    for owner in ("student", "teacher"):
        # programs are copies of the teacher's stages, so the calls of a plan's nodes are looked at
        (node,) = [n for n in made.plan.graph.ordered() if n.name == f"{owner}:backbone"]  # type: ignore[attr-defined]
        node.module.register_forward_pre_hook(lambda *_, owner=owner: seen.append(owner))
    for _ in range(3):
        train_step(made)
    assert seen == ["teacher", "teacher", "student", "teacher", "student", "student"]


@pytest.mark.parametrize("fast", [True, False])
def test_a_step_of_the_engine_waits_for_nothing(fast: bool, machine: Machine) -> None:
    made = training(machine, fast=fast, ema=0.9, clip_norm=1.0)
    made.open(lambda first: iter([*itertools.islice(toy_loader(first), 5)]))  # they lie on the device
    for _ in range(2):  # the terms are seen alive, and caches are filled
        train_step(made)
    found = HostReads()
    with found.counted():
        train_step(made)
        train_step(made)
    assert found.count == 0, str(found)


def test_a_student_without_blocks_cannot_run_them_again(machine: Machine) -> None:
    with pytest.raises(UsageError, match="no repeated blocks"):
        training(machine, checkpoint_activations=True)


def test_memory_is_not_measured_on_a_cpu(alone: dict[str, Any]) -> None:
    assert {event.peak_memory for event in alone["result"].history} == {None}


def test_memory_is_that_of_the_gpu_since_the_run_began(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", asked.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    monkeypatch.setattr(torch, "tensor", lambda value, device, dtype: torch.full((), value, dtype=dtype))
    gpu = Machine(torch.device("cuda"))
    gpu.count_memory()
    assert asked == [torch.device("cuda")]
    assert gpu.peak_memory() == 3.0
