"""Sweeps and ablations with runs that train nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdflow.cli.sweep import table, values_of
from kdflow.errors import InvariantError, UsageError
from kdflow.experiment.ablate import FULL, NONE, distinct, judge, plan_ablation, shared
from kdflow.experiment.run import RunResult
from kdflow.experiment.sweep import Job, JobResult, grid, plan_jobs, record_of, run_jobs, summary
from tests.search.conftest import BENCH

TINY = str(BENCH)


class Runs:
    """Stands in for training."""

    def __init__(self, fails: Any = lambda settings: False) -> None:
        self.fails = fails
        self.calls: list[dict[str, Any]] = []

    def __call__(self, spec: str, **settings: Any) -> RunResult:
        self.calls.append({"spec": spec, **settings})
        if self.fails(self.calls[-1]):
            raise InvariantError("kd/hint", "not finite at step 2")
        weights = {k: v for k, v in settings["overrides"].items() if k.startswith("terms.")}
        folder = settings["output"] / f"run{len(self.calls)}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text("{}")
        metrics = {"AP": 10 + settings["seed"] + sum(map(float, weights.values()))}
        return RunResult(
            spec, "tiny", settings["seed"], None, "finished", metrics, {}, 1.0, 0, (), (), None, str(folder),
        )


def go(jobs: list[Job], output: Path, runs: Runs, resume: bool = False) -> list[JobResult]:
    return list(run_jobs(jobs, None, output, resume=resume, notify=lambda _: None, runner=runs))  # type: ignore[arg-type]


def test_values_are_split_at_commas_and_make_a_grid() -> None:
    values = values_of(["a.b=1,2.5", "c=[1, 2],[3]", "d=adam"])
    assert values == {"a.b": [1, 2.5], "c": [[1, 2], [3]], "d": ["adam"]}
    assert len(grid(values)) == 4
    with pytest.raises(UsageError, match="PATH=A,B,C"):
        values_of(["a.b"])


def test_jobs_are_compiled_hashed_and_listed_once() -> None:
    jobs = plan_jobs(["fitnet", "nothing"], [TINY], range(2), {"terms.hint.weight": [1.0, 2, 2.0]}, steps=3)
    good = [job for job in jobs if not job.problem]
    assert len(good) == 4
    assert len({job.hash for job in good}) == 4
    assert {(job.steps, job.images) for job in good} == {(3, 6)}
    assert len(jobs) > len(good)
    assert all("nothing" in job.problem for job in jobs if job.problem)
    again = plan_jobs(["fitnet"], [TINY], range(2), {"terms.hint.weight": [1.0, 2]}, steps=3)
    assert [job.hash for job in again] == [job.hash for job in good]


def test_failed_job_does_not_stop_the_rest_and_resume_runs_exactly_what_is_missing(tmp_path: Path) -> None:
    jobs = plan_jobs(["fitnet"], [TINY], range(2), {"terms.hint.weight": [1, 2]})
    first = go(jobs, tmp_path, Runs(lambda s: s["overrides"]["terms.hint.weight"] == 2 and s["seed"] == 0))
    assert [r.status for r in first] == ["finished", "finished", "failed", "finished"]
    assert first[2].reason == "kd/hint: not finite at step 2"
    runs = Runs()
    more = plan_jobs(["fitnet"], [TINY], range(2), {"terms.hint.weight": [1, 2, 3]})
    second = go(more, tmp_path / ".", runs, resume=True)
    assert [(c["overrides"]["terms.hint.weight"], c["seed"]) for c in runs.calls] == [(2, 0), (3, 0), (3, 1)]
    assert [r.reused for r in second] == [True, True, False, True, False, False]
    rows = summary(second)
    assert [(row.setting, row.finished, row.failed, row.mean["AP"]) for row in rows] == [
        ("terms.hint.weight=1", 2, 0, 11.5), ("terms.hint.weight=2", 2, 0, 12.5), ("terms.hint.weight=3", 2, 0, 13.5),
    ]
    assert "11.50 ± 0.71" in table(second)


def test_job_whose_files_are_gone_is_missing(tmp_path: Path) -> None:
    (job,) = plan_jobs(["fitnet"], [TINY], [0], {})
    assert record_of(job, tmp_path) is None
    (result,) = go([job], tmp_path, Runs())
    found = record_of(job, tmp_path)
    assert found is not None
    assert found.status == "finished"
    assert json.loads((tmp_path / "sweeps" / f"{job.hash}.json").read_text())["job"]["seed"] == 0
    (Path(result.folder) / "result.json").unlink()
    assert record_of(job, tmp_path) is None


def test_ablation_leaves_each_node_out_and_says_which_brings_the_gain(tmp_path: Path) -> None:
    parts, jobs = plan_ablation("defeat", TINY, range(2), {})
    assert {part.node: part.terms for part in parts} == {
        "cnn/neck": ("neck_objects", "neck_rest"), "cnn/rpn-roi": ("roi_objects", "roi_rest"),
    }
    assert {job.label for job in jobs} >= {FULL, NONE, "without cnn/neck", "only cnn/neck"}
    worth = {"neck_objects": 1.0, "neck_rest": 0.5, "roi_objects": 3.0, "roi_rest": 0.0}

    def measured(job: Job) -> JobResult:
        kept = sum(v for name, v in worth.items() if f"terms.{name}.weight" not in job.overrides)
        return JobResult(job, "finished", {"AP": 20 + kept + job.seed})

    runs = distinct(jobs)
    assert len(runs) == 8  # with two nodes, only one is without the other
    found = judge(parts, shared(jobs, [measured(job) for job in runs]))
    assert (found.full, found.none) == (25.0, 20.5)
    assert [(p.node, p.alone, p.lost) for p in found.parts] == [("cnn/rpn-roi", 3.0, 3.0), ("cnn/neck", 1.5, 1.5)]
    assert found.verdict == (
        "the method brings +4.50 AP; cnn/rpn-roi brings most of it: without it -3.00, and alone it brings +3.00"
    )


def test_ablation_of_one_node_needs_two_runs_and_missing_runs_are_said() -> None:
    parts, jobs = plan_ablation("fitnet", TINY, [0], {})
    assert len(distinct(jobs)) == 2
    assert "runs are missing" in judge(parts, []).verdict
    with pytest.raises(UsageError, match="no distillation term"):
        plan_ablation("baseline", TINY, [0], {})
