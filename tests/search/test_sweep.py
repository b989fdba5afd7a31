"""Sweeps and ablations with runs that train nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdflow.cli.sweep import table, values_of
from kdflow.errors import InvariantError, SpecError, UsageError
from kdflow.experiment.ablate import FULL, NONE, distinct, judge, plan_ablation, shared
from kdflow.experiment.nesting import nested
from kdflow.experiment.request import TrialOf
from kdflow.experiment.run import RunResult
from kdflow.experiment.sweep import Job, JobResult, grid, plan_jobs, record_of, run_jobs, summary
from kdflow.experiment.sweep_file import read_sweep
from kdflow.results.measured import read_records
from kdflow.tracking.lock import HeldError
from kdflow.tracking.store import open_client
from tests.paths import BENCH
from tests.results.store import write_run

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


def test_jobs_of_one_stream_train_together_and_a_group_too_large_is_halved(tmp_path: Path) -> None:
    jobs = plan_jobs(["fitnet", "nothing"], [TINY], range(2), {"terms.hint.weight": [1, 2, 3]})
    alone, sizes, said = Runs(), list[int](), list[str]()

    def side_by_side(requests: Any, **settings: Any) -> list[RunResult]:
        sizes.append(len(requests))
        assert len({request.seed for request in requests}) == 1
        if len(requests) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return [alone(r.spec, bench=r.bench, seed=r.seed, overrides=r.overrides, **settings) for r in requests]

    results = list(
        run_jobs(
            jobs, None, tmp_path, together=3, notify=said.append, runner=alone, group_runner=side_by_side,  # type: ignore[arg-type]
        )
    )
    assert sizes == [3, 2, 3, 2]
    assert len(alone.calls) == 6
    assert {(r.job.seed, r.metrics["AP"]) for r in results if r.status == "finished"} == {
        (seed, 10.0 + seed + weight) for seed in (0, 1) for weight in (1, 2, 3)
    }
    assert all("nothing" in r.reason for r in results if r.status == "failed")
    assert any("3 students together do not fit in memory" in line for line in said)
    again = list(run_jobs(jobs, None, tmp_path, resume=True, together=3, notify=said.append, group_runner=side_by_side))  # type: ignore[arg-type]
    assert sum(r.reused for r in again) == 6


def test_run_that_is_under_way_elsewhere_is_left_alone_and_the_rest_of_its_group_trains(tmp_path: Path) -> None:
    jobs = plan_jobs(["fitnet"], [TINY], [0], {"terms.hint.weight": [1, 2]})
    alone = Runs()

    def one(spec: str, **settings: Any) -> RunResult:
        if settings["overrides"]["terms.hint.weight"] == 2:
            raise HeldError("in use by process 7")
        return alone(spec, **settings)

    def side_by_side(requests: Any, **settings: Any) -> list[RunResult]:
        raise HeldError("in use by process 7")

    said = list[str]()
    done = list(
        run_jobs(jobs, None, tmp_path, together=2, notify=said.append, runner=one, group_runner=side_by_side)  # type: ignore[arg-type]
    )
    assert [(r.status, r.reason) for r in done] == [("finished", ""), ("held", "in use by process 7")]
    assert "one of 2 runs is under way in another process; they go on in two halves" in said
    assert record_of(jobs[1], tmp_path) is None, "it is the other process that says what became of it"


def test_job_whose_files_are_gone_is_missing(tmp_path: Path) -> None:
    (job,) = plan_jobs(["fitnet"], [TINY], [0], {})
    assert record_of(job, tmp_path) is None
    said: list[str] = []
    (result,) = run_jobs([job], None, tmp_path, notify=said.append, runner=Runs(), numbers=[4], total=9)  # type: ignore[arg-type]
    assert said[0].startswith("[4/9] fitnet"), "one of many is told by its place among them"
    found = record_of(job, tmp_path)
    assert found is not None
    assert found.status == "finished"
    assert json.loads((tmp_path / "sweeps" / f"{job.hash}.json").read_text())["job"]["seed"] == 0
    (Path(result.folder) / "result.json").unlink()
    assert record_of(job, tmp_path) is None


def test_trial_is_not_tried_again_by_another_comparison_and_stands_for_no_run(tmp_path: Path) -> None:
    (job,) = plan_jobs(["fitnet"], [TINY], [1000], {})
    go([replace(job, trial=TrialOf("three seeds", 4))], tmp_path, Runs())
    runs = Runs()
    (again,) = go([replace(job, trial=TrialOf("five seeds", 7))], tmp_path, runs, resume=True)
    assert (again.reused, again.metrics, runs.calls) == (True, {"AP": 1010.0}, [])
    (measured,) = go([job], tmp_path, runs, resume=True)
    assert (measured.reused, len(runs.calls)) == (False, 1)


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


def write(folder: Path, text: str) -> Path:
    file = folder / "sweep.yaml"
    file.write_text(f"kdflow: 1\nsweep:\n{text}")
    return file


def test_sweep_file_combines_grid_zip_and_list(tmp_path: Path) -> None:
    file = write(tmp_path, """
  methods: [fitnet]
  seeds: 2
  grid: {a: [1, 2]}
  zip: {b: [1, 2], c: [3, 4]}
  list: [{d: 5}, {d: 6, e: 7}]
""")
    found = read_sweep(file)
    assert found is not None
    assert found.seeds == [0, 1]
    assert len(found.all_points()) == 8
    assert found.all_points()[:3] == [
        {"a": 1, "b": 1, "c": 3, "d": 5}, {"a": 1, "b": 1, "c": 3, "d": 6, "e": 7}, {"a": 1, "b": 2, "c": 4, "d": 5},
    ]
    assert read_sweep(Path(TINY)) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("  methods: []\n", "methods"),
        ("  methods: [a]\n  sedes: 2\n", "sedes"),
        ("  methods: [a]\n  zip: {b: [1, 2], c: [3]}\n", "as many values"),
        ("  methods: [a]\n  grid: {b: [1]}\n  list: [{b: 2}]\n", "set in two"),
        ("  methods: [a]\n  grid: {b: []}\n", "no values"),
        ("  methods: [a]\nbench: x\n", "nothing else"),
    ],
)
def test_mistakes_in_a_sweep_file_are_named_with_their_place(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=problem) as caught:
        read_sweep(write(tmp_path, text))
    assert "sweep.yaml:" in str(caught.value)


def test_jobs_of_points_show_what_differs() -> None:
    points = [{"terms.hint.weight": 1.0, "recipe.batch": 2}, {"terms.hint.weight": 2.0, "recipe.batch": 2}]
    jobs = plan_jobs(["fitnet"], [TINY], [0], {}, points=points, steps=3)
    assert [job.shown for job in jobs] == [{"terms.hint.weight": 1.0}, {"terms.hint.weight": 2.0}]
    assert not any(job.problem for job in jobs)


def test_runs_are_nested_in_the_run_of_their_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    output = tmp_path / "runs"
    ids = [write_run(output, "fitnet", 10.0, seed=seed, bench="tiny") for seed in range(2)]
    results = []
    for seed, run_id in enumerate(ids):
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps({"run_id": run_id}))
        job = Job("fitnet", TINY, seed, {}, hash=f"h{seed}", method="fitnet", bench_name="tiny")
        results.append(JobResult(job, "finished", {"AP": 10.0}, folder=str(folder)))
    jobs = [result.job for result in results]
    assert list(nested(jobs, results, output)) == results
    assert list(nested(jobs, results[:1], output)) == results[:1]
    client = open_client(f"sqlite:///{output / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tiny"]
    (parent,) = client.search_runs([experiment.experiment_id], "tags.kind = 'sweep'")
    assert parent.info.status == "FINISHED"
    assert {client.get_run(i).data.tags["mlflow.parentRunId"] for i in ids} == {parent.info.run_id}
    assert {record.run_id for record in read_records(f"sqlite:///{output / 'mlflow.db'}")} == set(ids), "the parent is no result"
