"""The life of a run: killed at every boundary and resumed, it must end bit for bit as the run that was left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from kdflow.engine import run as run_module
from kdflow.engine.checkpoint import BEST, LAST, Checkpoints, Writer, read
from kdflow.engine.machine import Machine
from kdflow.engine.training import Training
from kdflow.errors import UsageError
from kdflow.events import EvaluationEvent, Silent, StepEvent, StopRun
from kdflow.files import WriteError
from kdflow.spec.bench import Recipe
from kdflow.spec.method import Phase
from tests.engine.fakes import FakePlan, FakePreparation, arguments, differences, fit, loader, make_recipe

PHASES = (
    Phase(name="warm", steps=5, train=("ops.*",)),
    Phase(name="main", steps=7, terms=("*",), train=("*",)),
)


class Killed(BaseException):
    """Stands for a kill: nothing in the engine may catch it and go on."""


def make_plan() -> tuple[FakePlan, list[FakePreparation]]:
    preparations = [FakePreparation("prototype", "start"), FakePreparation("each", "epoch")]
    return FakePlan(preparations=tuple(preparations)), preparations


def settings(folder: Path, machine: Machine, **changes: Any) -> dict[str, Any]:
    return arguments(folder, device=machine, phases=PHASES, **changes)


@pytest.fixture(scope="module")
def alone(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The uninterrupted run: its final checkpoint, best student, history and evaluations."""
    folder = tmp_path_factory.mktemp("alone")
    plan, _ = make_plan()
    result = fit(plan, loader, make_recipe(), **settings(folder, machine))
    return {"state": read(folder / LAST), "best": read(folder / BEST), "result": result}


def kill_points() -> dict[str, Callable[[pytest.MonkeyPatch], None]]:
    """Ways to die, by name; each patches the engine so that it raises at one boundary."""
    points: dict[str, Callable[[pytest.MonkeyPatch], None]] = {}

    def after(owner: Any, name: str, when: Callable[[Any], bool], before: bool = False) -> Callable[[Any], None]:
        def patch(monkeypatch: pytest.MonkeyPatch) -> None:
            original = getattr(owner, name)

            def deadly(self: Any, *args: Any, **kwargs: Any) -> Any:
                if before and when(self):
                    raise Killed
                result = original(self, *args, **kwargs)
                if not before and when(self):
                    raise Killed
                return result

            monkeypatch.setattr(owner, name, deadly)

        return patch

    def at(step: int) -> Callable[[Any], bool]:
        return lambda owner: getattr(owner, "training", owner).step == step

    for step in range(12):
        points[f"before the backward of step {step}"] = after(Training, "watch", at(step))
        points[f"in the optimizer's step {step}"] = after(Training, "advance_schedule", at(step))
    for step in (4, 5, 8, 12):
        points[f"before the checkpoint of step {step}"] = after(run_module.Run, "save", at(step), before=True)
        points[f"after the checkpoint of step {step}"] = after(run_module.Run, "save", at(step))
    for step in (10, 12):
        points[f"before the evaluation at {step}"] = after(run_module.Run, "_judge", at(step), before=True)
        points[f"after the evaluation at {step}"] = after(run_module.Run, "evaluate_if_due", at(step))
    for step in (0, 4, 8):
        points[f"after preparing at {step}, before its checkpoint"] = after(run_module.Run, "_prepare", at(step))
        points[f"after the preparation at {step} was saved"] = after(run_module.Run, "prepare_if_due", at(step))
    points["at the start of the second phase"] = after(Training, "enter", lambda t: t.at == 1)
    return points


def kill(point: str, machine: Machine, folder: Path, recipe: Recipe | None = None, **changes: Any) -> None:
    """Start a run that dies at ``point``."""
    with pytest.MonkeyPatch.context() as patched:
        kill_points()[point](patched)
        with pytest.raises(Killed):
            fit(make_plan()[0], loader, recipe or make_recipe(), **settings(folder, machine, **changes))


@pytest.mark.parametrize("point", kill_points())
def test_killed_run_ends_like_the_run_left_alone(
    point: str, alone: dict[str, Any], machine: Machine, tmp_path: Path
) -> None:
    kill(point, machine, tmp_path)
    torch.manual_seed(99)  # a new process starts elsewhere
    result = fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path, machine))
    assert differences(read(tmp_path / LAST), alone["state"]) == []
    assert differences(read(tmp_path / BEST), alone["best"]) == []
    assert result.status == "finished"
    assert [e.step for e in result.history] == [e.step for e in alone["result"].history]
    assert [dict(e.raw) for e in result.history] == [dict(e.raw) for e in alone["result"].history]
    assert [dict(e.metrics) for e in result.evaluations] == [dict(e.metrics) for e in alone["result"].evaluations]


def test_the_comparison_would_notice_a_lost_stream(alone: dict[str, Any], machine: Machine, tmp_path: Path) -> None:
    kill("after the checkpoint of step 8", machine, tmp_path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("kdflow.engine.training.set_generator_state", lambda state: None)
        fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path, machine))
    assert any(".plan.student" in d for d in differences(read(tmp_path / LAST), alone["state"]))


def test_state_covers_everything_that_moves(alone: dict[str, Any]) -> None:
    state = alone["state"]
    assert state["step"] == 12
    assert state["phase"] == 1
    assert state["scheduler"]["last_epoch"] == 7  # a phase has a schedule of its own
    assert state["average"]["updates"] == 12
    assert state["prepared"] == {"prototype": 0, "each": 2}
    assert state["best"]["metric"] == "AP"
    assert [set(r) >= {"python", "numpy", "torch"} for r in state["random"]] == [True]
    assert state["optimizer"]["state"][0]["momentum_buffer"].abs().sum() > 0


def test_resume_says_where_it_started_and_repeats_at_most_one_interval(machine: Machine, tmp_path: Path) -> None:
    kill("in the optimizer's step 7", machine, tmp_path)
    plan, preparations = make_plan()
    result = fit(plan, loader, make_recipe(), **settings(tmp_path, machine))
    assert result.resumed_from_step == 5
    assert "resumed_from_step 5" in result.notes
    assert plan.advanced[0] == (5, 0)
    assert preparations[0].runs == []  # prepared state came from the checkpoint
    assert len(preparations[1].runs) == 1  # epoch 1 was done before the kill, epoch 2 was not


def test_finished_run_resumes_to_itself(machine: Machine, tmp_path: Path) -> None:
    fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path, machine))
    plan, _ = make_plan()
    result = fit(plan, loader, make_recipe(), **settings(tmp_path, machine))
    assert (result.status, result.resumed_from_step, plan.advanced) == ("finished", 12, [])


def test_reports_are_marked_when_they_repeat(machine: Machine, tmp_path: Path) -> None:
    class Log(Silent):
        def __init__(self) -> None:
            self.seen: list[tuple[str, int, bool]] = []

        def step_ended(self, event: StepEvent) -> None:
            self.seen.append(("step", event.step, event.repeated))

        def evaluation_ended(self, event: EvaluationEvent) -> None:
            self.seen.append(("evaluation", event.step, event.repeated))

    first, second = Log(), Log()
    kill("in the optimizer's step 10", machine, tmp_path, make_recipe(checkpoint_every=100), hooks=(first,))
    fit(make_plan()[0], loader, make_recipe(checkpoint_every=100), **settings(tmp_path, machine, hooks=(second,)))
    fresh = [(kind, step) for log in (first, second) for kind, step, repeated in log.seen if not repeated]
    assert len(fresh) == len(set(fresh))
    assert ("step", 9, True) in second.seen
    assert ("evaluation", 10, True) in second.seen
    assert sorted(step for kind, step in fresh if kind == "step") == [3, 5, 6, 9, 12]


def test_saved_preparation_is_not_repeated(machine: Machine, tmp_path: Path) -> None:
    kill("after the preparation at 8 was saved", machine, tmp_path)
    plan, preparations = make_plan()
    result = fit(plan, loader, make_recipe(), **settings(tmp_path, machine))
    assert result.resumed_from_step == 8
    assert [len(p.runs) for p in preparations] == [0, 0]


def test_saved_evaluation_is_not_repeated_and_an_earlier_best_stays(machine: Machine, tmp_path: Path) -> None:
    asked: list[int] = []

    def falling(plan: FakePlan) -> dict[str, float]:
        step = plan.advanced[-1][0] + 1
        asked.append(step)
        return {"AP": -float(step)}

    recipe = make_recipe(evaluate_every=4)
    changes = {"evaluate": falling, "phases": ()}
    with pytest.MonkeyPatch.context() as patched:
        kill_points()["after the checkpoint of step 8"](patched)
        with pytest.raises(Killed):
            fit(make_plan()[0], loader, recipe, **{**settings(tmp_path, machine), **changes})
    result = fit(make_plan()[0], loader, recipe, **{**settings(tmp_path, machine), **changes})
    assert asked == [4, 8, 12]
    assert result.best == {"metric": "AP", "value": -4.0, "step": 4}
    assert read(tmp_path / BEST)["step"] == 4


def test_journal_that_a_kill_cut_off_is_completed(alone: dict[str, Any], machine: Machine, tmp_path: Path) -> None:
    kill("in the optimizer's step 10", machine, tmp_path)
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    result = fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path, machine))
    assert [e.step for e in result.history] == [e.step for e in alone["result"].history]
    assert [e.step for e in result.evaluations] == [e.step for e in alone["result"].evaluations]
    again = fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path, machine))
    assert again.history == result.history


def test_without_resume_the_run_starts_again(alone: dict[str, Any], machine: Machine, tmp_path: Path) -> None:
    fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path, machine))
    result = fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path, machine, resume=False))
    assert result.resumed_from_step == 0
    assert differences(read(tmp_path / LAST), alone["state"]) == []


def test_checkpoint_of_another_run_is_refused(machine: Machine, tmp_path: Path) -> None:
    fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path, machine))
    with pytest.raises(UsageError, match='was written by run "r1", this is run "r2"'):
        fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path, machine, run_hash="r2"))


def test_checkpoint_of_more_processes_is_refused(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "r", world_size=4).save({})
    with pytest.raises(UsageError, match="written by 4 processes and 1 are running"):
        Checkpoints(tmp_path, "r").load()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_checkpoint_falls_back_to_the_one_before(
    damage: str, alone: dict[str, Any], machine: Machine, tmp_path: Path
) -> None:
    kill("before the backward of step 10", machine, tmp_path)
    path = tmp_path / LAST
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes({"cut": content[: len(content) // 2], "flipped": content, "empty": b""}[damage])
    result = fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path, machine))
    assert 0 < result.resumed_from_step <= 8
    assert "last.pt" in result.notes[0]
    assert "passed over" in result.notes[0]
    assert differences(read(tmp_path / LAST), alone["state"]) == []


def test_no_whole_checkpoint_left_is_said(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / LAST).write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="No whole checkpoint is left"):
        fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path, machine))


def test_kill_while_a_checkpoint_is_published_leaves_a_whole_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in range(2):
        checkpoints.save({"step": step})

    def die(*args: Any) -> None:
        raise Killed

    for function in ("fsync", "link", "replace"):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(os, function, die)
            with pytest.raises(Killed):
                checkpoints.save({"step": 9})
        found = checkpoints.load()
        assert found is not None
        assert found.state["step"] == 1
    checkpoints.save({"step": 2})
    assert [read(tmp_path / name)["step"] for name in ("last.pt", "previous.pt")] == [2, 1]


def test_sigterm_saves_after_the_step_and_the_run_can_go_on(
    alone: dict[str, Any], machine: Machine, tmp_path: Path
) -> None:
    def interrupted(first: int) -> Iterator[Any]:
        for index, batch in enumerate(loader(first), start=first):
            if index == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    before = signal.getsignal(signal.SIGTERM)
    result = fit(make_plan()[0], interrupted, make_recipe(), **settings(tmp_path, machine))
    assert (result.status, result.step) == ("interrupted", 7)
    assert signal.getsignal(signal.SIGTERM) == before
    resumed = fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path, machine))
    assert resumed.resumed_from_step == 7
    assert differences(read(tmp_path / LAST), alone["state"]) == []


def test_evaluation_due_at_an_interrupted_step_is_made_up_for(
    alone: dict[str, Any], machine: Machine, tmp_path: Path
) -> None:
    def interrupted(first: int) -> Iterator[Any]:
        for index, batch in enumerate(loader(first), start=first):
            if index == 9:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    result = fit(make_plan()[0], interrupted, make_recipe(), **settings(tmp_path, machine))
    assert (result.step, len(result.evaluations)) == (10, 0)
    resumed = fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path, machine))
    assert [e.step for e in resumed.evaluations] == [10, 12]
    assert differences(read(tmp_path / LAST), alone["state"]) == []


def test_hook_stops_the_run(machine: Machine, tmp_path: Path) -> None:
    class Prune(Silent):
        def evaluation_ended(self, event: EvaluationEvent) -> None:
            raise StopRun(f"AP {event.value:.1f} is below the median")

    result = fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path, machine, hooks=(Prune(),)))
    assert (result.status, result.step) == ("stopped", 10)
    assert "below the median" in result.reason


class Highest(Silent):
    """Remembers the highest total and how many reports it saw, as early stopping does."""

    def __init__(self, begin: float = 0.0) -> None:
        self.state: dict[str, Any] = {"highest": torch.tensor(begin), "seen": 0, "steps": [(0, "start")]}

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)

    def step_ended(self, event: StepEvent) -> None:
        highest = torch.maximum(self.state["highest"], torch.tensor(event.total))
        steps = [*self.state["steps"], (event.step, "step")]
        self.state = {"highest": highest, "seen": self.state["seen"] + 1, "steps": steps}


@pytest.mark.parametrize("point", ["in the optimizer's step 7", "in the optimizer's step 10", "after the checkpoint of step 8"])
def test_what_hooks_remember_is_as_if_nothing_had_happened(point: str, machine: Machine, tmp_path: Path) -> None:
    whole = (Highest(), Silent(), Highest(50.0))
    fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path / "whole", machine, hooks=whole))
    kill(point, machine, tmp_path / "cut", hooks=(Highest(), Silent(), Highest(50.0)))
    resumed = (Highest(), Silent(), Highest(0.0))
    fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path / "cut", machine, hooks=resumed))
    assert [hook.state["seen"] for hook in (whole[0], whole[2])] == [5, 5]
    assert differences(resumed[0].state, whole[0].state) == []
    assert differences(resumed[2].state, whole[2].state) == []
    assert float(resumed[2].state["highest"]) == 50.0
    assert differences(read(tmp_path / "cut" / LAST), read(tmp_path / "whole" / LAST)) == []


def test_a_hook_without_its_state_is_told(machine: Machine, tmp_path: Path) -> None:
    kill("in the optimizer's step 7", machine, tmp_path, hooks=(Highest(),))
    result = fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path, machine))
    assert any("state of the hook Highest, which does not listen" in note for note in result.notes)
    kill("in the optimizer's step 7", machine, tmp_path / "other")
    result = fit(make_plan()[0], loader, make_recipe(), **settings(tmp_path / "other", machine, hooks=(Highest(),)))
    assert any("the hook Highest begins anew" in note for note in result.notes)


@pytest.mark.parametrize(("state", "words"), [({"at": Path()}, "at is a PosixPath"), ({"a": [1, {2}]}, r"a\[1\] is a set")])
def test_a_state_that_no_checkpoint_can_hold_is_refused_before_the_first_step(
    state: dict[str, Any], words: str, machine: Machine, tmp_path: Path
) -> None:
    hook = Highest()
    hook.state = state
    plan = make_plan()[0]
    with pytest.raises(UsageError, match=f"hook Highest .*{words}"):
        fit(plan, loader, make_recipe(), **settings(tmp_path, machine, hooks=(hook,)))
    assert plan.advanced == []


def test_kill_9_in_mid_training_loses_nothing(alone: dict[str, Any], tmp_path: Path) -> None:
    """A real process, killed by the kernel with no chance to clean up, then started again."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, str(Path(__file__).with_name("drive.py")), str(tmp_path)]
    killed = subprocess.run([*command, "7"], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert read(tmp_path / LAST)["step"] == 5
    resumed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed_from_step 5" in resumed.stdout
    assert differences(read(tmp_path / LAST), alone["state"]) == []
    assert differences(read(tmp_path / BEST), alone["best"]) == []


def test_checkpoints_written_beside_the_loop_hold_the_state_as_it_was(tmp_path: Path) -> None:
    weight, released = torch.ones(2), threading.Event()
    writer = Writer(beside=True)
    beside = Checkpoints(tmp_path, writer=writer)
    writer.do(released.wait)  # type: ignore[arg-type]  # a slow disk
    threading.Timer(0.05, released.set).start()
    beside.save({"step": 1, "weight": weight})
    weight.zero_()  # training goes on
    beside.finish()
    assert torch.equal(read(tmp_path / LAST)["weight"], torch.ones(2))
    beside.settle()


def test_a_disk_that_is_full_beside_the_loop_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    beside = Checkpoints(tmp_path / "file", writer=Writer(beside=True))
    beside.save({"step": 1})
    with pytest.raises(WriteError, match=LAST):
        beside.save({"step": 2})
    beside.save({"step": 3})
    with pytest.raises(WriteError, match=LAST):
        beside.finish()
    beside.settle()
