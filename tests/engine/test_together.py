"""Groups of students on one stream of batches: each as alone, failures of one kept from the others, resuming."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kdflow.engine.checkpoint import LAST, read
from kdflow.engine.loop import FitResult
from kdflow.engine.machine import Machine
from kdflow.engine.run import Fit
from kdflow.engine.together import fit_together
from kdflow.errors import UsageError
from kdflow.events import EvaluationEvent, RunEnded, Silent, StepEvent, StopRun
from kdflow.ports import Batch
from tests.engine.fakes import (
    FakeOutcome,
    FakePlan,
    FakePreparation,
    arguments,
    differences,
    evaluate,
    fit,
    loader,
    make_recipe,
    passes,
)  # fmt: skip


def share(plans: Sequence[Any]) -> Callable[..., list[Batch]]:
    """A common pass that computes nothing."""
    return lambda batch, step, part: [batch] * len(plans)


def member(folder: Path, plan: FakePlan | None = None, total_steps: int = 12, **changes: Any) -> Fit:
    own = {key: changes.pop(key) for key in ("hooks", "seed", "run_hash") if key in changes}
    values: dict[str, Any] = {"seed": 7, "run_hash": "r1", "evaluate": evaluate, "passes": passes, **own}
    return Fit(plan or FakePlan(), make_recipe(**changes), folder, total_steps, 4, **values)


def group(machine: Machine, *members: Fit, resume: bool = True) -> list[FitResult]:
    return fit_together(members, loader, share, machine, resume=resume)


class Poisoned(FakePlan):
    """Its term is not a number from step 5 on."""

    def forward(self, batch: Batch) -> FakeOutcome:
        outcome = super().forward(batch)
        if self.advanced[-1][0] < 5:
            return outcome
        raw = {**outcome.raw, "kd/neck": outcome.raw["kd/neck"] * float("nan")}
        return FakeOutcome(outcome.total * float("nan"), raw, raw)


def prepared() -> FakePlan:
    return FakePlan(preparations=(FakePreparation(every="epoch"),))


def test_students_of_unlike_recipes_end_as_they_do_alone(machine: Machine, tmp_path: Path) -> None:
    recipes = {
        "sgd": make_recipe(),
        "adam": make_recipe(optimizer={"name": "adamw", "lr": 0.01}, ema=None, clip_norm=None, evaluate_every=1),
        "long": make_recipe(schedule={"name": "linear"}),
    }
    lengths = {"sgd": 12, "adam": 9, "long": 15}
    members = [
        member(tmp_path / "together" / name, prepared(), lengths[name], **recipe.model_dump())
        for name, recipe in recipes.items()
    ]
    together = group(machine, *members)
    for (name, recipe), result in zip(recipes.items(), together, strict=True):
        keys = arguments(tmp_path / "alone" / name, device=machine, total_steps=lengths[name])
        alone = fit(prepared(), loader, recipe, **keys)
        assert (result.status, result.step, result.best) == ("finished", lengths[name], alone.best)
        states = [read(tmp_path / place / name / LAST) for place in ("together", "alone")]
        assert differences(*states) == []
        assert [(e.total, e.raw) for e in result.history] == [(e.total, e.raw) for e in alone.history]


def test_a_student_that_fails_leaves_and_the_others_go_on(machine: Machine, tmp_path: Path) -> None:
    class Ends(Silent):
        def __init__(self) -> None:
            self.ended: list[RunEnded] = []

        def run_ended(self, event: RunEnded) -> None:
            self.ended.append(event)

    heard = Ends()
    good, bad, other = group(
        machine,
        member(tmp_path / "good"),
        member(tmp_path / "bad", Poisoned(), hooks=(heard,), clip_norm=None),
        member(tmp_path / "other", seed=9),
    )
    assert [good.status, bad.status, other.status] == ["finished", "failed", "finished"]
    assert bad.reason.startswith("kd/neck: not finite at step 6")
    assert heard.ended == [RunEnded("failed", 6, bad.reason)]
    assert read(tmp_path / "bad" / LAST)["step"] == 4
    alone = FakePlan()
    fit(alone, loader, make_recipe(), **arguments(tmp_path / "alone", device=machine))
    assert differences(read(tmp_path / "good" / LAST)["plan"], dict(alone.state_dict())) == []


def test_a_hook_ends_one_student_only(machine: Machine, tmp_path: Path) -> None:
    class Prune(Silent):
        def evaluation_ended(self, event: EvaluationEvent) -> None:
            raise StopRun("pruned")

    pruned, kept = group(machine, member(tmp_path / "a", hooks=(Prune(),)), member(tmp_path / "b"))
    assert (pruned.status, pruned.reason, pruned.step) == ("stopped", "pruned", 5)
    assert (kept.status, kept.step) == ("finished", 12)


def test_a_group_resumes_though_its_students_were_saved_at_different_steps(machine: Machine, tmp_path: Path) -> None:
    names = ("a", "b")
    group(machine, *[member(tmp_path / "whole" / name, total_steps=12) for name in names])
    for name, steps in zip(names, (4, 8), strict=True):  # a kill between two checkpoints leaves them so
        fit(FakePlan(), loader, make_recipe(), **arguments(tmp_path / "cut" / name, device=machine, total_steps=steps))
        state = read(tmp_path / "cut" / name / LAST)
        assert state["step"] == steps
    opened: list[int] = []

    def watched(first: int) -> Any:
        opened.append(first)
        return loader(first)

    again = [member(tmp_path / "cut" / name) for name in names]
    results = fit_together(again, watched, share, machine)
    assert [r.resumed_from_step for r in results] == [4, 8]
    assert opened == [4]
    whole = [fit_alone_in_parts(machine, tmp_path / "parts" / n, s) for n, s in zip(names, (4, 8), strict=True)]
    for name, state in zip(names, whole, strict=True):
        assert differences(read(tmp_path / "cut" / name / LAST), state) == []


def fit_alone_in_parts(machine: Machine, folder: Path, first: int) -> dict[str, Any]:
    for steps in (first, 12):
        fit(FakePlan(), loader, make_recipe(), **arguments(folder, device=machine, total_steps=steps))
    return read(folder / LAST)


def test_the_stream_jumps_when_all_that_were_behind_have_left(machine: Machine, tmp_path: Path) -> None:
    fit(FakePlan(), loader, make_recipe(), **arguments(tmp_path / "ahead", device=machine, total_steps=10))
    opened: list[int] = []

    def watched(first: int) -> Any:
        opened.append(first)
        return loader(first)

    class Stop(Silent):
        def step_ended(self, event: StepEvent) -> None:
            raise StopRun("enough")

    members = [member(tmp_path / "ahead"), member(tmp_path / "behind", hooks=(Stop(),))]
    results = fit_together(members, watched, share, machine)
    assert [(r.status, r.step) for r in results] == [("finished", 12), ("stopped", 3)]
    assert opened == [0, 10]


def test_sigterm_saves_every_student(machine: Machine, tmp_path: Path) -> None:
    class Kill(Silent):
        def step_ended(self, event: StepEvent) -> None:
            if event.step == 6:
                os.kill(os.getpid(), signal.SIGTERM)

    results = group(machine, member(tmp_path / "a", hooks=(Kill(),)), member(tmp_path / "b"))
    assert [(r.status, r.step) for r in results] == [("interrupted", 6)] * 2
    again = group(machine, member(tmp_path / "a"), member(tmp_path / "b"))
    assert [(r.status, r.resumed_from_step) for r in again] == [("finished", 6)] * 2
    alone = FakePlan()
    fit(alone, loader, make_recipe(), **arguments(tmp_path / "alone", device=machine))
    assert differences(read(tmp_path / "b" / LAST)["plan"], dict(alone.state_dict())) == []


def test_an_error_of_the_program_ends_all_and_is_told(machine: Machine, tmp_path: Path) -> None:
    class Broken(FakePlan):
        def forward(self, batch: Batch) -> FakeOutcome:
            raise RuntimeError("a mistake in an op")

    class Ends(Silent):
        def __init__(self) -> None:
            self.ended: list[RunEnded] = []

        def run_ended(self, event: RunEnded) -> None:
            self.ended.append(event)

    ends = [Ends(), Ends()]
    with pytest.raises(RuntimeError, match="a mistake in an op"):
        group(machine, member(tmp_path / "a", hooks=(ends[0],)), member(tmp_path / "b", Broken(), hooks=(ends[1],)))
    assert [e.ended[0].status for e in ends] == ["failed", "failed"]


def test_batches_per_step_and_precision_are_the_same_for_all(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"share recipe\.accumulate; here it is 1 and 2"):
        group(machine, member(tmp_path / "a"), member(tmp_path / "b", accumulate=2))


def test_the_generators_are_left_as_they_were(machine: Machine, tmp_path: Path) -> None:
    members = [member(tmp_path / "a"), member(tmp_path / "b", seed=3)]
    before = torch.get_rng_state()
    group(machine, *members)
    assert torch.equal(before, torch.get_rng_state())
