"""Runs of a sweep shared by workers; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdflow.cli.main import main
from kdflow.errors import UsageError
from kdflow.experiment.sweep import Job, JobResult
from kdflow.search.jobs import Sharing, once, run_shared
from kdflow.search.worker import BrokenDeviceError, InterruptedTrialError
from tests.paths import BENCH

JOBS = [Job("fitnet", "tiny", seed, {}, hash=f"h{seed}", stream="s") for seed in range(5)]
SESSION: Any = SimpleNamespace(machine=SimpleNamespace(world_size=1))
SHARING = Sharing("all", join=True, beat=0.1, grace=2, poll=0.05)


class Runner:
    """Finishes jobs; what ``fails`` names ends otherwise."""

    def __init__(self, **fails: tuple[str, str]) -> None:
        self.fails, self.calls = fails, list[list[int]]()
        self.resumed: list[bool] = []
        self.places: list[tuple[list[int], int]] = []

    def __call__(self, jobs: Sequence[Job], *_: Any, resume: bool, **options: Any) -> Iterable[JobResult]:
        self.places += [(options["numbers"], options["total"])] if jobs and "numbers" in options else []
        self.calls += [[job.seed for job in jobs]] if jobs else []
        self.resumed += [resume] if jobs else []
        for job in jobs:
            status, reason = self.fails.get(job.hash, ("finished", ""))
            yield JobResult(job, status, {"AP": float(job.seed)} if status == "finished" else {}, reason)
            if status == "interrupted":
                return


def go(output: Path, runner: Runner, sharing: Sharing = SHARING, jobs: Sequence[Job] = JOBS) -> list[JobResult]:
    return run_shared(jobs, SESSION, output, sharing, runner=runner, notify=lambda _: None)


def test_second_worker_has_the_results_of_the_first_and_runs_nothing(tmp_path: Path) -> None:
    first, second = Runner(h3=("failed", "kd/hint: not finite")), Runner()
    done = go(tmp_path, first, replace(SHARING, together=2))
    assert first.calls == [[0, 1], [2, 3], [4]]
    assert first.places == [([1, 2], 5), ([3, 4], 5), ([5], 5)], "a job is told by its place among all"
    assert [(r.job.seed, r.status, r.metrics.get("AP")) for r in done] == [
        (0, "finished", 0.0), (1, "finished", 1.0), (2, "finished", 2.0), (3, "failed", None), (4, "finished", 4.0),
    ]
    again = go(tmp_path, second)
    assert second.calls == []
    assert [replace(r, reused=False) for r in again] == done
    assert again[3].reason == "kd/hint: not finite"
    assert [r.reused for r in again] == [True] * 5


def test_resume_runs_what_failed_and_a_taken_name_is_refused(tmp_path: Path) -> None:
    go(tmp_path, Runner(h3=("failed", "kd/hint: not finite")))
    with pytest.raises(UsageError, match='there is "all" already'):
        go(tmp_path, Runner(), replace(SHARING, join=False))
    runner = Runner()
    done = go(tmp_path, runner, replace(SHARING, join=False, resume=True))
    assert (runner.calls, runner.resumed) == ([[3]], [True])
    assert {r.status for r in done} == {"finished"}


def test_worker_with_other_jobs_is_refused(tmp_path: Path) -> None:
    go(tmp_path, Runner())
    with pytest.raises(UsageError, match=r"stands for other jobs \(5 jobs, here 4\)"):
        go(tmp_path, Runner(), jobs=JOBS[:4])


def test_interrupted_job_goes_back_and_is_resumed_by_the_next_worker(tmp_path: Path) -> None:
    with pytest.raises(InterruptedTrialError):
        go(tmp_path, Runner(h1=("interrupted", "SIGTERM")))
    runner = Runner()
    done = go(tmp_path, runner)
    assert runner.calls == [[1], [2], [3], [4]]
    assert runner.resumed == [True, False, False, False]
    assert {r.status for r in done} == {"finished"}


def test_job_that_a_living_worker_has_is_left_to_it_and_done_after_all_others(tmp_path: Path) -> None:
    """Its worker was silent for so long that it counted as dead; its lock on the folder says that it lives."""
    runner = Runner(h1=("held", "the folder is in use by process 7"))
    said: list[str] = []

    class Ends(Runner):
        def __call__(self, jobs: Sequence[Job], *given: Any, **options: Any) -> Iterable[JobResult]:
            done = list(runner(jobs, *given, **options))
            if [call for call in runner.calls if call == [1]] == [[1]] * 3:
                runner.fails.clear()
            return done

    done = run_shared(JOBS, SESSION, tmp_path, SHARING, runner=Ends(), notify=said.append)
    assert runner.calls == [[0], [1], [2], [3], [4], [1], [1], [1]]
    assert [r.status for r in done] == ["finished"] * 5
    assert [line for line in said if "in use" in line] == ["job 1: fitnet, tiny, seed 1: the folder is in use by process 7"]


def test_jobs_that_end_otherwise_are_not_begun_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's record lies there as soon as it begins, and looks like one of an earlier worker."""
    runner = Runner(h0=("failed", "kd/hint: not finite"), h3=("interrupted", "SIGTERM"))
    begun = lambda job, _: job.seed if any(job.seed in call for call in runner.calls) else None  # noqa: E731
    monkeypatch.setattr("kdflow.search.jobs.record_of", begun)
    with pytest.raises(InterruptedTrialError):
        go(tmp_path, runner)
    assert runner.calls == [[0], [1], [2], [3]]


def test_worker_whose_device_breaks_ends_and_leaves_the_rest(tmp_path: Path) -> None:
    with pytest.raises(BrokenDeviceError):
        go(tmp_path, Runner(h1=("failed", "RuntimeError: CUDA error: an illegal memory access")))
    runner = Runner()
    done = go(tmp_path, runner)
    assert runner.calls == [[2], [3], [4]]
    assert done[1].status == "failed"


def test_processes_of_one_launch_go_through_the_jobs_in_one_order(tmp_path: Path) -> None:
    session: Any = SimpleNamespace(machine=SimpleNamespace(world_size=2))
    runner = Runner()
    done = run_shared(JOBS, session, tmp_path, replace(SHARING, join=False), runner=runner, notify=lambda _: None)
    assert runner.calls == [[0, 1, 2, 3, 4]]
    assert [r.job.seed for r in done] == [0, 1, 2, 3, 4]
    with pytest.raises(UsageError, match="is one process"):
        run_shared(JOBS, session, tmp_path, SHARING, runner=runner)


def test_once_is_done_once_for_all(tmp_path: Path) -> None:
    made: list[int] = []
    for _ in range(2):
        found = once("cost", lambda: made.append(1) or {"ms": 3}, tmp_path, SHARING, lambda _: None)  # type: ignore[func-returns-value]
        assert found == {"ms": 3}
    assert made == [1]


def test_sweep_and_ablation_join_from_the_command_line(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runner = Runner()
    monkeypatch.setattr("kdflow.search.jobs.run_shared.__kwdefaults__", {**run_shared.__kwdefaults__, "runner": runner})
    words = ["sweep", "fitnet", "--bench", str(BENCH), "--seeds", "2", "--device", "cpu", "--output", str(tmp_path)]
    assert main([*words, "--join"]) == 0
    assert main([*words, "--join"]) == 0
    assert runner.calls == [[0], [1]]
    assert "1.00" not in capsys.readouterr().out.splitlines()[0]
    assert main([*words, "--storage", "sqlite:///x.db"]) == 2
    assert "give --join too" in capsys.readouterr().err
