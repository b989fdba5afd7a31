"""Searches over benches, by costs and in other ways; nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdflow.errors import UsageError
from kdflow.experiment.run import RunResult
from kdflow.resources import specs_folder
from tests.search.conftest import PATH, Runs, Search

INCLUDE = (f"{PATH}=0.5..8",)


class Sized(Runs):
    """A student's width is searched: it brings AP and costs operations; a wide one may be too much."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: list[tuple[int, str]] = []

    def __call__(self, spec: Any, *, overrides: Any, trial: Any, **options: Any) -> RunResult:
        width = overrides.get("student.neck", 16)
        weight = {PATH: 0 if overrides[PATH] == 0 else width}
        costs = {"flops": float(width)}
        if excess := trial.excess(costs):
            return RunResult("fitnet", "tiny", 0, None, "stopped", {}, {}, None, 0, (), (), None, "none", excess, costs=costs)
        done = super().__call__(spec, overrides=weight, trial=trial, **options)
        if trial.start is not None:
            self.starts.append((width, Path(trial.start).parent.name))
        folder = Path(done.folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "best.pt").write_bytes(b"")
        return replace(done, costs={name: value for name, value in costs.items() if name in trial.costs})


WIDTH = ("student.neck={low: 8, high: 40, step: 8}",)
ONLY_WIDTH: dict[str, Any] = {"include": WIDTH, "overrides": {PATH: 1.0}}


def test_costs_of_the_student_make_a_front_by_evolution(fake: Search) -> None:
    def go(name: str, **options: Any) -> tuple[Sized, Any]:
        runs = Sized()
        return runs, fake(runs, trials=5, study=name, plain_seeds=1, **ONLY_WIDTH, **options)

    runs, outcome = go("a", metrics=("val/AP", "cost/flops"))
    front = {best.values["student.neck"]: best.objectives for best in outcome.best}
    assert all(found == {"AP": float(width), "flops": float(width)} for width, found in front.items())
    assert 2 <= len(front) == len(set(runs.values)), "more AP costs more, so every width that was tried is on the front"
    table = next(Path(file) for file in outcome.files if file.endswith("front.csv")).read_text().splitlines()
    assert table[0] == "trial,val/AP,cost/flops,student.neck"
    assert len(table) == 1 + len(outcome.best)
    again, _ = go("b", metrics=("AP", "flops"))
    assert again.values == runs.values, "one seed, one path"
    rest = Sized()
    assert fake(rest, study="b", trials=6, resume=True).counts == {"complete": 6}
    assert len(rest.values) == 1


def test_a_student_beyond_a_limit_is_not_trained(fake: Search) -> None:
    runs = Sized()
    outcome = fake(runs, trials=5, sampler="random", pruner="none", limits=("cost/flops=20",), plain_seeds=1, **ONLY_WIDTH)
    assert max(runs.values) <= 20
    assert outcome.counts["pruned"] == 5 - len(runs.values) > 0
    with pytest.raises(UsageError, match="limits are"):
        fake(Sized(), trials=5, resume=True, limits=("flops=30",))
    with pytest.raises(UsageError, match="step_ms is not known before training"):
        fake(Sized(), study="t", trials=1, include=WIDTH, limits=("step_ms=3",))
    with pytest.raises(UsageError, match="COST=NUMBER"):
        fake(Sized(), study="t", trials=1, include=WIDTH, limits=("flops=few",))


def test_a_trial_starts_from_the_nearest_finished_one(fake: Search, tmp_path: Path) -> None:
    spec = (specs_folder() / "fitnet.yaml").read_text() + 'init: [{student: "*", source: parent, when: any_shapes}]\n'
    (tmp_path / "heir.yaml").write_text(spec.replace("method: fitnet", "method: heir"))
    runs = Sized()
    grid = {"include": ("student.neck=[8, 16, 24, 32, 40]",), "overrides": {PATH: 1.0}, "sampler": "grid"}
    fake(runs, trials=5, pruner="none", spec=tmp_path / "heir.yaml", plain_seeds=1, **grid)
    assert runs.values == [8, 16, 24, 32, 40]
    assert runs.starts == [(16, "0"), (24, "1"), (32, "2"), (40, "3")]


def test_a_searched_bench_is_judged_before_anything_runs(fake: Search) -> None:
    for include, words in (
        ("student.nekc=1..2", "unknown key"), ("data.flip=[0, 0.5]", "changes the teacher"), ("teacher.neck=8..16", "choices"),
    ):
        with pytest.raises(UsageError, match=f"--include .*{words}"):
            fake(Sized(), trials=1, include=(include,))
    with pytest.raises(UsageError, match=r"--together: .*same batches.*data.size"):
        fake(Sized(), trials=2, include=("data.size=[32, 64]",), together=2)
    with pytest.raises(UsageError, match='no metric "cost/flop"'):
        fake(Sized(), trials=1, include=WIDTH, metrics=("cost/flop",))


def test_interrupted_search_keeps_everything_and_goes_on(fake: Search) -> None:
    class Impatient(Runs):
        def __call__(self, *args: Any, **options: Any) -> RunResult:
            if len(self.values) == 2:
                raise KeyboardInterrupt
            return super().__call__(*args, **options)

    first = Impatient()
    with pytest.raises(KeyboardInterrupt):
        fake(first, trials=4, include=INCLUDE, pruner="none")
    rest = Runs()
    outcome = fake(rest, resume=True)
    assert outcome.counts == {"complete": 4}
    assert (len(first.values), len(rest.values)) == (2, 2)


def test_several_metrics_make_a_front(fake: Search) -> None:
    outcome = fake(Runs(), trials=4, include=INCLUDE, metrics=("AP", "step_ms"))
    assert len(outcome.best) == 1  # a larger weight is better in both here
    with pytest.raises(UsageError, match="--pruner none"):
        fake(Runs(), study="t", trials=4, include=INCLUDE, metrics=("AP", "step_ms"), pruner="median")


def test_range_that_the_spec_refuses_is_found_before_anything_runs(fake: Search) -> None:
    runs = Runs()
    with pytest.raises(ValueError, match="nothing was run"):
        fake(runs, trials=2, include=("terms.hint.wieght=1..2",))
    assert runs.values == []
    with pytest.raises(UsageError, match="at least 2 points"):
        fake(runs, trials=1, include=INCLUDE, sampler="grid")


def test_grid_runs_every_point_once(fake: Search) -> None:
    runs = Runs()
    outcome = fake(runs, trials=3, include=(f"{PATH}=[1, 2, 4]",), sampler="grid", pruner="none")
    assert runs.values == [1, 2, 4]
    assert outcome.best[0].values == {PATH: 4}


def test_every_search_has_the_student_without_distillation_on_some_seeds(fake: Search) -> None:
    said: list[str] = []
    runs = Runs(plain_ap=3.0)
    outcome = fake(runs, said.append, trials=4, include=INCLUDE, seed=6, sampler="random")
    assert runs.plain == [6, 7, 8]
    assert outcome.plain.values == {6: 3.0, 7: 4.0, 8: 5.0}
    assert "without distillation, seed 7: AP 4.00" in said
    assert outcome.as_json()["plain"]["differs"] is outcome.plain.differs
    again = fake(runs, trials=4, resume=True)
    assert (len(runs.plain), again.plain) == (3, outcome.plain)


def test_seeds_without_distillation_that_are_missing_are_run_on_resume(fake: Search) -> None:
    runs = Runs()
    fake(runs, trials=2, include=INCLUDE, sampler="random", plain_seeds=1)
    assert fake(runs, trials=2, resume=True, plain_seeds=3).plain.values == {0: 0.0, 1: 1.0, 2: 2.0}
    assert runs.plain == [0, 1, 2]


def test_a_cost_is_not_measured_against_it(fake: Search) -> None:
    runs = Runs()
    outcome = fake(runs, trials=2, include=INCLUDE, sampler="random", metrics=("step_ms",))
    assert (runs.plain, outcome.plain.words) == ([], ())
