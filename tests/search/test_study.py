"""Searches from beginning to end: two real trials on the smallest bench, the rest with runs that train nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from kdflow.engine.checkpoint import read
from kdflow.errors import InvariantError, UsageError
from kdflow.events import EvaluationEvent, RunStarted, StopRun
from kdflow.experiment.run import RunResult
from kdflow.experiment.together import run_together
from kdflow.resources import specs_folder
from kdflow.results.measured import read_records
from kdflow.search import definition as about
from kdflow.search.study import Request, search
from kdflow.search.worker import InterruptedTrialError
from kdflow.spec.resolve import load_method
from tests.paths import BENCH

PATH = "terms.hint.weight"
Search = Callable[..., Any]


class Runs:
    """Stands in for training: AP grows with the weight and the steps; a weight above ``bad`` fails."""

    def __init__(self, bad: float = 1e9, plain_ap: float = 0.0) -> None:
        self.bad = bad
        self.plain_ap = plain_ap
        self.plain: list[int] = []
        self.steps = 0
        self.values: list[float] = []
        self.sessions: set[int] = set()

    def __call__(
        self, spec: Any, *, overrides: Any, hooks: Any, session: Any, trial: Any, output: Any, seed: int, **_: Any
    ) -> RunResult:
        weight = float(overrides[PATH])
        if weight == 0:  # without distillation
            self.plain.append(seed)
            values = {"AP": self.plain_ap + seed % 3, "AP50": 1.0}
            folder = str(trial.folder(output, "tiny"))
            return RunResult("fitnet", "tiny", seed, None, "finished", {}, values, 1.0, 0, (), (), None, folder)
        self.values.append(weight)
        self.sessions.add(id(session))
        if weight > self.bad:
            raise InvariantError("kd/hint", "not finite at step 1")
        folder = trial.folder(output, "tiny")
        total, status, reason, metrics = 10, "finished", "", {}
        for hook in hooks:
            hook.run_started(RunStarted(folder, total, 0, "cpu", 1, ()))
        try:
            for step in range(2, total + 1, 2):
                self.steps += 2
                metrics = {"AP": weight * step / total, "AP50": 2 * weight}
                for hook in hooks:
                    hook.evaluation_ended(EvaluationEvent(step, metrics, "AP", metrics["AP"], True))
        except StopRun as stop:
            status, reason = "stopped", str(stop)
        return RunResult("fitnet", "tiny", 0, None, status, {}, metrics, 7.0 / weight, 0, (), (), None, str(folder), reason)


@pytest.fixture
def fake(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Search:
    """A search whose trials are ``Runs``; teachers and the test split are left out."""
    monkeypatch.setattr("kdflow.search.study.provide_teachers", lambda *_, **__: {})
    monkeypatch.setattr("kdflow.search.outcome.measure_trial", lambda *_: {"AP": 50.0})

    def go(runs: Runs, notify: Callable[[str], None] = lambda _: None, spec: Any = "fitnet", **options: Any) -> Any:
        monkeypatch.setattr("kdflow.search.objective.run", runs)
        settings: dict[str, Any] = {"bench": BENCH, "output": tmp_path / "runs", "device": "cpu", "study": "s"}
        return search(spec, Request(**{**settings, **options}), notify)

    return go


INCLUDE = (f"{PATH}=0.5..8",)


def test_two_real_trials_are_judged_on_validation_and_the_best_is_measured_once_on_test(
    home: Path, tmp_path: Path, any_teacher: None
) -> None:
    said: list[str] = []
    output = tmp_path / "runs"
    request = Request(
        trials=2, bench=BENCH, output=output, device="cpu", include=INCLUDE, write=tmp_path / "best.yaml", sampler="random",
        plain_seeds=1,
    )
    outcome = search("fitnet", request, said.append)
    assert outcome.complete, said
    assert outcome.counts == {"complete": 2}
    (best,) = outcome.best
    assert best.objectives["AP"] == best.validation["AP"]
    assert {"AP", "voc_ap50"} <= set(outcome.test)
    assert load_method(tmp_path / "best.yaml").resolve({"bench": "tiny"}).terms["hint"].weight == best.values[PATH]
    assert {p.name for p in Path(best.folder).glob("*.pt")} == {"best.pt", "student.pt"}
    assert sum("AP50" in line for line in said) == 1  # the teacher was provided once
    store = f"sqlite:///{output / 'mlflow.db'}"
    assert read_records(store) == []
    trials = read_records(store, trials=True)
    assert len(trials) == 3  # one of them without distillation
    assert len(outcome.plain.values) == 1
    again = search("fitnet", Request(bench=BENCH, output=output, device="cpu", resume=True, plain_seeds=1), lambda _: None)
    assert again.plain == outcome.plain
    assert (again.counts, again.test) == ({"complete": 2}, outcome.test)


def test_trials_side_by_side_reach_what_they_reach_alone(
    home: Path, tmp_path: Path, any_teacher: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []

    def counted(requests: Any, **settings: Any) -> list[RunResult]:
        passes.append(len(requests))
        return run_together(requests, **settings)

    monkeypatch.setattr("kdflow.search.objective.run_together", counted)

    def go(name: str, together: int) -> dict[int, tuple[Any, ...]]:
        request = Request(
            bench=BENCH, output=tmp_path / name, device="cpu", together=together,
            trials=3, include=INCLUDE, sampler="random", pruner="none", steps=2,
        )  # fmt: skip
        search("fitnet", request, lambda _: None)
        storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / name / 'search.db'}")
        trials = optuna.load_study(study_name="fitnet-tiny", storage=storage).trials
        storage.engine.dispose()
        return {t.number: (t.values, t.params, _student(Path(t.user_attrs["folder"]))) for t in trials}

    assert go("together", 3) == go("alone", 1)
    assert passes == [3]


def test_a_group_that_cannot_train_together_runs_one_by_one_and_ends_when_asked_to(
    fake: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apart(*_: Any, **__: Any) -> list[RunResult]:
        raise UsageError("they would not see the same batches")

    class Interrupted(Runs):
        def __call__(self, *words: Any, **options: Any) -> RunResult:
            done = super().__call__(*words, **options)
            return replace(done, status="interrupted") if len(self.values) == 2 else done

    monkeypatch.setattr("kdflow.search.objective.run_together", apart)
    runs, said = Interrupted(), list[str]()
    with pytest.raises(InterruptedTrialError):
        fake(runs, said.append, trials=3, include=INCLUDE, pruner="none", together=3)
    assert "3 trials run one after the other: refused: they would not see the same batches" in said
    assert len(runs.values) == 2, "the third never began"
    outcome = fake(runs, resume=True, together=3)
    assert outcome.counts == {"complete": 3}


def _student(folder: Path) -> dict[str, list[float]]:
    """Weights of a trial's student, exactly."""
    return {key: value.double().flatten().tolist() for key, value in read(folder / "best.pt")["student"].items()}


def test_declared_values_are_the_first_trial_and_best_values_are_yaml(fake: Search) -> None:
    runs = Runs()
    outcome = fake(runs, trials=6, include=INCLUDE, pruner="none")
    assert runs.values[0] == 1.0
    assert len(runs.values) == len(set(runs.values)) == 6
    assert outcome.best[0].values[PATH] == max(runs.values)
    assert len(runs.sessions) == 1
    assert yaml.safe_load(outcome.yaml)["set"] == outcome.best[0].values
    assert yaml.safe_load(outcome.yaml)["variants"][0]["set"] == outcome.best[0].values
    assert outcome.importances == {PATH: 1.0}
    names = {Path(file).name for file in outcome.files}
    assert "best.yaml" in names
    assert {n.partition(".")[0] for n in names} == {"best", "history", "parallel", "importances"} or outcome.notes
    assert outcome.test == {"AP": 50.0}


def test_pruning_saves_steps_and_failures_do_not_end_the_study(fake: Search) -> None:
    runs = Runs(bad=7.0)
    outcome = fake(runs, trials=14, include=INCLUDE, sampler="random", seed=3)
    assert sum(outcome.counts.values()) == 14
    assert outcome.counts["pruned"] > 0
    full = 10 * (14 - outcome.counts.get("fail", 0))
    assert runs.steps < full
    assert all(reason == "invariant: kd/hint: not finite at step 1" for reason in outcome.failures.values())


def test_existing_study_is_refused_without_resume_and_grows_with_it(fake: Search) -> None:
    fake(Runs(), trials=2, include=INCLUDE)
    with pytest.raises(UsageError, match="--resume goes on"):
        fake(Runs(), trials=2, include=INCLUDE)
    more = Runs()
    assert sum(fake(more, trials=5, resume=True).counts.values()) == 5
    assert len(more.values) == 3
    none = Runs()
    fake(none, trials=5, resume=True)
    assert none.values == []
    with pytest.raises(UsageError, match=r"cannot go on.*other ranges"):
        fake(Runs(), resume=True, include=(f"{PATH}=0.5..9",))
    with pytest.raises(UsageError, match="metrics are"):
        fake(Runs(), resume=True, metrics=("AP50",))
    with pytest.raises(UsageError, match="no study"):
        fake(Runs(), resume=True, study="other")


def test_join_begins_a_study_or_joins_it_also_when_another_worker_is_faster_by_a_moment(
    fake: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fake(Runs(), trials=2, join=True).counts == {"complete": 2}
    assert fake(Runs(), trials=4, join=True).counts == {"complete": 4}
    found = iter([None])  # at the first look the study of the other worker is not there yet
    look = about.find_study
    monkeypatch.setattr(about, "find_study", lambda *where: next(found, look(*where)))
    assert fake(Runs(), trials=5, join=True).counts == {"complete": 5}
    with pytest.raises(UsageError, match="--join lets this worker join it"):
        fake(Runs(), trials=5)


def test_added_parameters_are_an_objective_of_which_less_is_better(fake: Search) -> None:
    class Growing(Runs):
        def __call__(self, *words: Any, **options: Any) -> RunResult:
            result = super().__call__(*words, **options)
            return replace(result, added_parameters=round(100 * (self.values or [0])[-1]))

    outcome = fake(Growing(), trials=4, include=INCLUDE, metrics=("AP", "added_parameters"))
    assert len(outcome.best) == 4, "more weight brings more AP and costs more, so no trial beats another"
    small = min(outcome.best, key=lambda best: best.objectives["added_parameters"])
    assert small.objectives["AP"] == min(best.objectives["AP"] for best in outcome.best)


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
