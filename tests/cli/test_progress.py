"""What a run says about its progress, and of whom."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from kdflow.cli.progress import Bars, ProgressHook
from kdflow.events import EvaluationEvent, Pull, PullEvent, RunEnded, RunStarted, StepEvent


def said(hook: ProgressHook, subject: str) -> list[str]:
    hook.run_started(RunStarted(Path(), 10, 0, "cpu", 1, (), subject=subject))
    hook.step_ended(StepEvent(5, 10, "", 1.25, {}, {}, 0.1, 0.04, 50.0))
    hook.evaluation_ended(EvaluationEvent(10, {"AP": 12.5}, "AP", 12.5, True))
    hook.run_ended(RunEnded("stopped", 10, "enough"))
    text = hook.console.file.getvalue()
    hook.console.file.seek(0)
    hook.console.file.truncate()
    return text.splitlines()


def test_every_line_names_what_is_trained() -> None:
    hook = ProgressHook("defeat, seed 0", Console(file=io.StringIO(), width=200))
    teacher = said(hook, "teacher of shapes")
    assert len(teacher) == 4
    assert all(line.startswith("teacher of shapes: ") for line in teacher)
    student = said(hook, "")
    assert all(line.startswith("defeat, seed 0: ") for line in student)


def test_own_losses_and_distillation_are_told_apart_and_each_pull_once() -> None:
    hook = ProgressHook("defeat, seed 0", Console(file=io.StringIO(), width=200))
    weighted = {"det/box": 0.5, "det/cls": 0.25, "kd/neck": 3.0, "kd/roi": 1.0}
    hook.step_ended(StepEvent(5, 10, "", 4.75, {}, weighted, 0.1, 0.04, 50.0))
    hook.step_ended(StepEvent(6, 10, "", 0.75, {}, {"det/box": 0.75}, 0.1, 0.04, 50.0))
    hook.pulls_known(PullEvent(20, (Pull("kd/neck", 6.0, 200.0), Pull("kd/roi", 1.0, 1.0))))
    assert hook.console.file.getvalue().splitlines() == [
        "defeat, seed 0: step 5/10  loss 4.75 (det 0.75, kd 4)  40 ms/step",
        "defeat, seed 0: step 6/10  loss 0.75  40 ms/step",
        "defeat, seed 0: kd/neck pulls 200 x as hard as the detector's losses; weight 0.03 would give 1 x",
        "defeat, seed 0: kd/roi pulls 1 x as hard as the detector's losses",
    ]


def test_several_runs_share_a_terminal_and_give_it_back() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    bars = Bars(console)
    hooks = [ProgressHook(name, bars=bars) for name in ("fitnet", "mgd")]
    for hook in hooks:
        hook.run_started(RunStarted(Path(), 10, 0, "cpu", 1, ()))
        hook.step_ended(StepEvent(5, 10, "", 1.25, {}, {}, 0.1, 0.04, 50.0))
    hooks[0].run_ended(RunEnded("failed", 5, "not finite"))
    hooks[1].step_ended(StepEvent(7, 10, "", 1.25, {}, {}, 0.1, 0.04, 50.0))
    hooks[1].run_ended(RunEnded("finished", 10))
    assert "fitnet: failed at step 5: not finite" in console.file.getvalue()
    hooks[0].run_started(RunStarted(Path(), 10, 0, "cpu", 1, ()))  # a terminal takes one set of bars only
    hooks[0].run_ended(RunEnded("finished", 10))


def test_while_the_teacher_trains_the_method_is_not_named(call, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("KDFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KDFLOW_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("kdflow.experiment.teacher.require_teacher", lambda *_: None)
    done = call("run", "fitnet", "--bench", tiny, "--output", tmp_path / "runs", "--device", "cpu")
    assert done.code == 0, done.err
    steps = [line for line in done.err.splitlines() if ": step " in line]
    assert [line.partition(":")[0] for line in steps] == ["teacher of tiny", "fitnet, seed 0", "fitnet, seed 0"]
