"""Searches from beginning to end: two real trials on the smallest bench, the rest with runs that train nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from kdflow.engine.checkpoint import read
from kdflow.errors import UsageError
from kdflow.experiment.run import RunResult
from kdflow.experiment.together import run_together
from kdflow.results.measured import read_records
from kdflow.search import definition as about
from kdflow.search.request import Request
from kdflow.search.study import search
from kdflow.search.worker import InterruptedTrialError
from kdflow.spec.resolve import load_method
from tests.paths import BENCH
from tests.search.conftest import PATH, Runs, Search

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
