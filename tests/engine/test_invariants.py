"""Each invariant is broken on purpose; the run must stop and name what broke it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdflow.engine.checkpoint import LAST, read
from kdflow.engine.invariants import FiniteWatch, LifeWatch, TeacherWatch, require_teacher
from kdflow.engine.loop import FitResult
from kdflow.engine.machine import Machine
from kdflow.errors import InvariantError
from kdflow.events import RunEnded, Silent
from kdflow.ports import Batch
from tests.engine.fakes import FakeOutcome, FakePlan, arguments, fit, loader, make_recipe

Change = Callable[[FakePlan, FakeOutcome, int], FakeOutcome]


class Broken(FakePlan):
    """A plan whose outcome is changed on the way out."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.change = change

    def forward(self, batch: Batch) -> FakeOutcome:
        return self.change(self, super().forward(batch), self.advanced[-1][0])


def swap(outcome: FakeOutcome, name: str, value: torch.Tensor, empty: tuple[str, ...] = ()) -> FakeOutcome:
    raw, weighted = {**outcome.raw, name: value}, {**outcome.weighted, name: value}
    return FakeOutcome(torch.stack(list(weighted.values())).sum(), raw, weighted, empty)


def run(plan: FakePlan, machine: Machine, folder: Path, steps: int = 30, **changes: Any) -> FitResult:
    keys = arguments(folder, device=machine, **{"total_steps": steps, "evaluate": None, **changes})
    return fit(plan, loader, make_recipe(steps=steps), **keys)


def stopped(plan: FakePlan, machine: Machine, folder: Path, **changes: Any) -> InvariantError:
    with pytest.raises(InvariantError) as caught:
        run(plan, machine, folder, **changes)
    return caught.value


def test_sound_run_passes_and_says_what_was_guaranteed(machine: Machine, tmp_path: Path) -> None:
    result = run(FakePlan(), machine, tmp_path)
    assert result.unproven == ()
    assert result.notes == ("teacher: in evaluation mode, 2 parameters frozen, 1 BatchNorm layers watched",)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_first_term_that_is_not_finite_is_named_with_its_step(value: float, machine: Machine, tmp_path: Path) -> None:
    def change(plan: FakePlan, outcome: FakeOutcome, step: int) -> FakeOutcome:
        return swap(outcome, "kd/neck", outcome.raw["kd/neck"] * value) if step == 10 else outcome

    error = stopped(Broken(change), machine, tmp_path)
    assert error.culprit == "kd/neck"
    assert "not finite at step 11" in str(error)


def test_poisoned_weights_are_never_saved(machine: Machine, tmp_path: Path) -> None:
    def change(plan: FakePlan, outcome: FakeOutcome, step: int) -> FakeOutcome:
        return swap(outcome, "kd/neck", outcome.raw["kd/neck"] * float("nan")) if step == 7 else outcome

    with pytest.raises(InvariantError):
        fit(
            Broken(change), loader, make_recipe(log_every=100), **arguments(tmp_path, device=machine, evaluate=None)
        )
    saved = read(tmp_path / LAST)
    assert saved["step"] == 4
    assert all(torch.isfinite(t).all() for t in saved["plan"].values())


def test_sum_that_is_not_finite_alone_is_named_total(machine: Machine, tmp_path: Path) -> None:
    def change(plan: FakePlan, outcome: FakeOutcome, step: int) -> FakeOutcome:
        return replace(outcome, total=outcome.total * float("inf"))

    assert stopped(Broken(change), machine, tmp_path).culprit == "total"


def test_gradient_that_is_not_finite_is_named_though_all_terms_are_finite(machine: Machine, tmp_path: Path) -> None:
    def change(plan: FakePlan, outcome: FakeOutcome, step: int) -> FakeOutcome:
        root = (plan.student.scale * 0).sum().sqrt()  # finite, but its gradient at 0 is not
        return swap(outcome, "det/loss", outcome.raw["det/loss"] + root) if step == 5 else outcome

    error = stopped(Broken(change), machine, tmp_path)
    assert error.culprit == "gradient"


def test_term_that_is_always_zero_is_named(machine: Machine, tmp_path: Path) -> None:
    error = stopped(
        Broken(lambda plan, outcome, step: swap(outcome, "kd/neck", outcome.raw["kd/neck"] * 0)), machine, tmp_path
    )
    assert error.culprit == "kd/neck"
    assert "was 0 in 20 steps" in str(error)


def test_term_without_gradient_to_the_student_is_named(machine: Machine, tmp_path: Path) -> None:
    def change(plan: FakePlan, outcome: FakeOutcome, step: int) -> FakeOutcome:
        return swap(outcome, "kd/neck", plan.ops["aligned"].weight.square().sum())  # the adapter learns, the student does not

    error = stopped(Broken(change), machine, tmp_path)
    assert error.culprit == "kd/neck"
    assert "no gradient of this term reached the student" in str(error)


def test_warm_up_at_weight_zero_is_legal(machine: Machine, tmp_path: Path) -> None:
    def change(plan: FakePlan, outcome: FakeOutcome, step: int) -> FakeOutcome:
        plan.weight.zero_()
        weighted = {**outcome.weighted, "kd/neck": outcome.raw["kd/neck"] * 0}
        return FakeOutcome(torch.stack(list(weighted.values())).sum(), outcome.raw, weighted)

    assert run(Broken(change), machine, tmp_path).status == "finished"


@pytest.mark.parametrize("factor", [0.0, 1e-12], ids=["zero", "too small"])
def test_term_that_is_not_felt_in_the_loss_is_named(factor: float, machine: Machine, tmp_path: Path) -> None:
    def change(plan: FakePlan, outcome: FakeOutcome, step: int) -> FakeOutcome:
        weighted = {**outcome.weighted, "kd/neck": outcome.raw["kd/neck"] * factor}
        return FakeOutcome(torch.stack(list(weighted.values())).sum(), outcome.raw, weighted)

    error = stopped(Broken(change), machine, tmp_path)
    assert error.culprit == "kd/neck"
    assert "what it added to the loss in 20 steps was 0, or too small to change the sum" in str(error)


def test_a_term_that_begins_late_is_judged_once_it_counts() -> None:
    watch, weight = LifeWatch(["a"], limit=2), nn.Parameter(torch.ones(1))
    unfelt = FakeOutcome(weight.sum(), {"a": weight.sum()}, {"a": weight.sum() * 0})
    for _ in range(5):
        watch.judge(unfelt, [weight], resting=["a"])
    assert watch.unproven == ("a",)
    watch.judge(unfelt, [weight])
    resumed = LifeWatch(["a"], limit=2)
    resumed.load_state_dict(watch.state_dict())
    with pytest.raises(InvariantError, match="too small to change the sum"):
        resumed.judge(unfelt, [weight])


def test_empty_groups_are_not_judged_but_reported(machine: Machine, tmp_path: Path) -> None:
    result = run(
        Broken(lambda plan, outcome, step: swap(outcome, "kd/neck", outcome.raw["kd/neck"] * 0, empty=("kd/neck",))),
        machine, tmp_path,
    )
    assert (result.status, result.unproven) == ("finished", ("kd/neck",))


def test_term_that_lives_late_but_in_time_passes(machine: Machine, tmp_path: Path) -> None:
    def change(plan: FakePlan, outcome: FakeOutcome, step: int) -> FakeOutcome:
        return swap(outcome, "kd/neck", outcome.raw["kd/neck"] * 0) if step < 19 else outcome

    assert run(Broken(change), machine, tmp_path).unproven == ()


def test_judgement_survives_a_resume(machine: Machine, tmp_path: Path) -> None:
    watch = LifeWatch(["a", "b"], limit=3)
    weight = nn.Parameter(torch.ones(1))
    zero, one = (weight * 0).sum(), weight.sum()
    outcome = FakeOutcome(one, {"a": zero, "b": one}, {})
    watch.judge(outcome, [weight])
    watch.judge(outcome, [weight])
    resumed = LifeWatch(["a", "b"], limit=3)
    resumed.load_state_dict(watch.state_dict())
    assert resumed.unproven == ("a",)
    with pytest.raises(InvariantError, match="a: its unscheduled value was 0 in 3 steps"):
        resumed.judge(outcome, [weight])


def test_teacher_left_in_training_mode_is_named(machine: Machine, tmp_path: Path) -> None:
    class Careless(FakePlan):
        def train(self, mode: bool = True) -> FakePlan:
            nn.Module.train(self, mode)
            if hasattr(self, "hidden"):
                self.hidden["teacher"].train(mode)
            return self

    error = stopped(Careless(), machine, tmp_path)
    assert error.culprit == "teacher"
    assert "training mode" in str(error)


def test_teacher_that_is_not_frozen_is_named(machine: Machine, tmp_path: Path) -> None:
    plan = FakePlan()
    plan.hidden["teacher"].shift.requires_grad_(True)
    error = stopped(plan, machine, tmp_path)
    assert error.culprit == "teacher.shift"
    assert "frozen" in str(error)


def test_teacher_statistics_that_drift_are_named(machine: Machine, tmp_path: Path) -> None:
    def change(plan: FakePlan, outcome: FakeOutcome, step: int) -> FakeOutcome:
        if step == 4:
            plan.hidden["teacher"].norm.running_mean.add_(1e-7)
        return outcome

    error = stopped(Broken(change), machine, tmp_path)
    assert error.culprit == "teacher.norm.running_mean"
    assert "changed during training" in str(error)


def test_teacher_weight_that_moves_is_named_at_the_end(machine: Machine, tmp_path: Path) -> None:
    def change(plan: FakePlan, outcome: FakeOutcome, step: int) -> FakeOutcome:
        with torch.no_grad():
            plan.hidden["teacher"].scale.mul_(1.001)
        return outcome

    assert stopped(Broken(change), machine, tmp_path).culprit == "teacher.scale"


def test_teacher_in_the_optimizer_is_named() -> None:
    plan = FakePlan()
    optimizer = torch.optim.SGD([plan.hidden["teacher"].scale], lr=0.1)
    with pytest.raises(InvariantError, match=r"teacher\.scale: a teacher's parameter is in the optimizer"):
        TeacherWatch(plan.teachers, optimizer)


def learning_teacher() -> tuple[Any, TeacherWatch]:
    """A teacher of which a phase trains ``scale`` and not ``shift``, in training mode."""
    plan = FakePlan()
    plan.eval()
    teacher = plan.hidden["teacher"]
    teacher.scale.requires_grad_(True)
    watch = TeacherWatch(plan.teachers, torch.optim.SGD([teacher.scale], lr=0.1), trained=[teacher.scale])
    teacher.train()
    return teacher, watch


def test_teacher_that_trains_on_purpose_may_change_where_it_trains() -> None:
    teacher, watch = learning_teacher()
    with torch.no_grad():
        teacher.scale.mul_(2)
        teacher.norm.running_mean.add_(1)
    watch.check(thorough=True)
    assert watch.learning == {"teacher"}
    assert watch.notes == ("teacher: 1 parameters train in this phase",)


def test_what_a_phase_leaves_out_of_a_learning_teacher_must_stay() -> None:
    teacher, watch = learning_teacher()
    teacher.shift.requires_grad_(True)
    with pytest.raises(InvariantError, match=r"teacher\.shift: a teacher's parameter requires gradient"):
        watch.check()
    teacher.shift.requires_grad_(False)
    with torch.no_grad():
        teacher.shift.add_(1)
    watch.check()
    with pytest.raises(InvariantError, match=r"teacher\.shift: the teacher changed during training"):
        watch.check(thorough=True)


def test_auxiliary_term_has_to_reach_anything_that_trains() -> None:
    ours, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    watch = LifeWatch(["a", "b"], limit=2, auxiliary=["a"])
    watch.judge(FakeOutcome(other.sum(), {"a": other.sum(), "b": ours.sum()}, {}), [ours], [ours, other])
    assert watch.unproven == ()
    dead = LifeWatch(["a"], limit=2, auxiliary=["a"])
    frozen = FakeOutcome(other.sum(), {"a": torch.ones(())}, {})
    dead.judge(frozen, [ours], [ours, other])
    with pytest.raises(InvariantError, match="a: in 2 steps no gradient of this term reached anything that trains"):
        dead.judge(frozen, [ours], [ours, other])


def test_term_for_the_student_is_not_proven_by_reaching_something_else() -> None:
    ours, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    watch = LifeWatch(["a"], limit=1)
    with pytest.raises(InvariantError, match="reached the student"):
        watch.judge(FakeOutcome(other.sum(), {"a": other.sum()}, {}), [ours], [ours, other])


def test_failed_run_tells_its_hooks_why(machine: Machine, tmp_path: Path) -> None:
    class Log(Silent):
        ended: RunEnded | None = None

        def run_ended(self, event: RunEnded) -> None:
            self.ended = event

    log = Log()
    stopped(
        Broken(lambda plan, outcome, step: swap(outcome, "kd/neck", outcome.raw["kd/neck"] * 0)), machine, tmp_path,
        hooks=(log,),
    )
    assert log.ended is not None
    assert log.ended.status == "failed"
    assert log.ended.reason.startswith("kd/neck: ")


def test_finite_watch_names_the_earliest_step_over_the_earliest_term() -> None:
    watch = FiniteWatch()
    watch.see(("a", "b"), torch.tensor([1.0, float("nan")]), 0)
    watch.see(("a", "b"), torch.tensor([float("nan"), 1.0]), 1)
    with pytest.raises(InvariantError, match="b: not finite at step 1"):
        watch.check()


@pytest.mark.parametrize("metrics", [{"AP50": 0.4}, {"AP50": float("nan")}, {}])
def test_teacher_no_better_than_chance_is_refused(metrics: dict[str, float]) -> None:
    with pytest.raises(InvariantError, match=r"assistant: AP50 .* no better than chance"):
        require_teacher(metrics, "assistant")


def test_teacher_that_knows_something_is_accepted() -> None:
    require_teacher({"AP50": 35.0})
