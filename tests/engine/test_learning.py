"""A run whose first phase trains the teacher itself: what changes when, what is checked, and that it resumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdflow.engine.checkpoint import LAST, read
from kdflow.engine.loop import FitResult
from kdflow.engine.machine import Machine
from kdflow.engine.training import Training
from kdflow.errors import InvariantError
from kdflow.events import Silent, StepEvent
from kdflow.graph.compile import compile_method
from kdflow.graph.plan import Plan
from kdflow.ports import Batch
from kdflow.spec.bench import Optimizer, Recipe, Schedule
from kdflow.spec.resolve import parse_method
from tests.engine.fakes import differences, fit
from tests.toy import toys

TEXT = """
kdflow: 1
method: test
nodes:
  aligned: {op: adapter.conv, features: student.neck, like: teacher.neck}
terms:
  lesson: {value: teacher.losses.loss, at: cnn/head}
  neck: {loss: loss.squared_error, student: aligned, teacher: teacher.neck, reduce: sum_of_means}
phases:
  - {name: teacher, steps: 0.5, terms: [lesson], train: ["teacher.*"]}
  - {name: student, steps: 0.5, terms: ["det/*", neck], init: [{student: "*"}]}
"""
STEPS = 8


def plan_of(text: str = TEXT) -> Plan:
    spec = parse_method(text, "test.yaml")
    return compile_method(spec.resolve(), spec.document, toys(), canvas=(16, 16))


def loader(first: int) -> Iterator[Batch]:
    index = first
    while True:
        generator = torch.Generator().manual_seed(index)
        box = torch.tensor([[1.0, 1.0, 9.0, 9.0]])
        images = torch.rand(2, 3, 16, 16, generator=generator)
        yield Batch(images, [(16, 16)] * 2, [box, box], [torch.zeros(1).long()] * 2)
        index += 1


def train(plan: Plan, machine: Machine, folder: Path, text: str = TEXT, **changes: Any) -> FitResult:
    recipe = Recipe(
        steps=STEPS, batch=2, optimizer=Optimizer(name="sgd", lr=0.1, momentum=0.9), schedule=Schedule(name="constant"),
        ema=0.5, log_every=1, checkpoint_every=2, **changes.pop("recipe", {}),
    )  # fmt: skip
    phases = parse_method(text, "test.yaml").resolve().phases
    keys = {
        "folder": folder,
        "total_steps": STEPS,
        "steps_per_epoch": 4,
        "phases": phases,
        "device": machine,
        **changes,
    }
    return fit(plan, loader, recipe, **keys)


class Watch(Silent):
    """Copies of all weights after every step."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seen: list[dict[str, dict[str, Tensor]]] = [self.now()]

    def now(self) -> dict[str, dict[str, Tensor]]:
        models = {"student": self.plan.student, **self.plan.teachers}
        return {owner: {k: v.clone() for k, v in model.state_dict().items()} for owner, model in models.items()}

    def step_ended(self, event: StepEvent) -> None:
        self.seen.append(self.now())


def test_each_phase_changes_what_it_trains_and_nothing_else(machine: Machine, tmp_path: Path) -> None:
    plan = plan_of()
    watch = Watch(plan)
    result = train(plan, machine, tmp_path, hooks=[watch])
    half = STEPS // 2
    for step in range(STEPS):
        moved = {
            owner
            for owner in ("student", "teacher")
            if differences(watch.seen[step][owner], watch.seen[step + 1][owner])
        }
        assert moved == ({"teacher"} if step < half else {"student"}), step
    learned = watch.seen[half]["teacher"]
    assert not torch.equal(learned["backbone.1.running_mean"], watch.seen[0]["teacher"]["backbone.1.running_mean"])
    assert result.status == "finished"
    assert result.unproven == ()
    assert any("frozen" in note for note in result.notes)


def test_the_student_starts_from_the_teacher_that_has_learned(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, begun = plan_of(), []
    enter = Training.enter

    def spy(self: Training, index: int, saved: Any = None) -> None:
        enter(self, index, saved)
        begun.append(
            (
                index,
                differences(plan.student.state_dict(), plan.teachers["teacher"].state_dict()),
                differences(dict(plan.student.state_dict()), dict(self.average.values if self.average else {})),
            )
        )

    monkeypatch.setattr(Training, "enter", spy)
    train(plan, machine, tmp_path)
    assert [(index, bool(unlike)) for index, unlike, _ in begun] == [(0, True), (1, False)]
    assert [averaged for _, _, averaged in begun] == [[], []]  # the moving average begins again there


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("killed_at", [1, 3, 4, 5, 7])
def test_a_run_killed_in_either_phase_ends_as_if_left_alone(killed_at: int, machine: Machine, tmp_path: Path) -> None:
    class Kill(Silent):
        def step_ended(self, event: StepEvent) -> None:
            if event.step == killed_at:
                raise Killed

    train(plan_of(), machine, tmp_path / "alone")
    with pytest.raises(Killed):
        train(plan_of(), machine, tmp_path / "killed", hooks=[Kill()])
    resumed = train(plan_of(), machine, tmp_path / "killed")
    assert resumed.resumed_from_step == (killed_at - 1) // 2 * 2
    one, two = (read(tmp_path / name / LAST) for name in ("alone", "killed"))
    assert {name.split(".")[0] for name in one["plan"]} == {"student", "ops", "teacher"}
    assert differences(one, two) == []


def test_a_teacher_that_moves_outside_its_phase_stops_the_run(machine: Machine, tmp_path: Path) -> None:
    plan = plan_of()

    class Push(Silent):
        def step_ended(self, event: StepEvent) -> None:
            if event.step == 6:
                with torch.no_grad():
                    plan.teachers["teacher"].head.bias.add_(1)

    with pytest.raises(InvariantError, match=r"teacher\.head\.bias: the teacher changed"):
        train(plan, machine, tmp_path, hooks=[Push()])


def test_what_moves_in_an_early_phase_is_found_when_that_phase_ends(machine: Machine, tmp_path: Path) -> None:
    text = TEXT.replace('train: ["teacher.*"]', 'train: ["teacher.head.*"]')
    plan, seen = plan_of(text), []

    class Push(Silent):
        def step_ended(self, event: StepEvent) -> None:
            seen.append(event.step)
            if event.step == 1:
                with torch.no_grad():
                    plan.teachers["teacher"].neck[0].bias.add_(1)

    with pytest.raises(InvariantError, match=r"teacher\.neck\.0\.bias: the teacher changed"):
        train(plan, machine, tmp_path, text, hooks=[Push()])
    assert seen[-1] == 4


def test_a_teacher_that_has_learned_is_measured_before_it_teaches(machine: Machine, tmp_path: Path) -> None:
    plan, measured = plan_of(), []

    def measure(owner: str) -> dict[str, float]:
        measured.append((owner, plan.training, plan.phase))
        return {"AP": 12.25, "AP50": 30.0}

    result = train(plan, machine, tmp_path, measure=measure)
    assert measured == [("teacher", False, "teacher")]
    assert "teacher: AP 12.2, AP50 30.0 % on the validation split after phase teacher" in result.notes

    def refuse(owner: str) -> dict[str, float]:
        raise InvariantError(owner, "no better than chance")

    with pytest.raises(InvariantError, match="no better than chance"):
        train(plan_of(), machine, tmp_path / "refused", measure=refuse)
    assert read(tmp_path / "refused" / LAST)["step"] == STEPS // 2


def test_frozen_norms_are_frozen_in_a_learning_teacher_too(machine: Machine, tmp_path: Path) -> None:
    plan = plan_of()
    before = {name: value.clone() for name, value in plan.teachers["teacher"].state_dict().items()}
    train(plan, machine, tmp_path, recipe={"norms": "frozen"})
    after = plan.teachers["teacher"].state_dict()
    assert torch.equal(before["backbone.1.running_mean"], after["backbone.1.running_mean"])
    assert torch.equal(before["backbone.1.weight"], after["backbone.1.weight"])
    assert not torch.equal(before["head.weight"], after["head.weight"])
