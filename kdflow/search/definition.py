"""What a study is about, kept in its storage: whoever joins or resumes it searches the same thing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import optuna
from optuna.storages import RDBStorage

from kdflow.errors import UsageError
from kdflow.spec.metrics import COSTS, metric_problem

KEY = "kdflow"
SCHEME = 2
"""What the content of a study is made of now."""
CHOOSES_BEST = ("AP", "AP50", "voc_ap50")
"""Metrics that the engine can choose the best checkpoint by."""


@dataclass(frozen=True)
class Definition:
    """What must not change within a study, and what its workers agree on.

    Attributes:
        method: Slug.
        bench: Name of the bench.
        content: Hash of method, bench, data, weights and code: the definition of a run without the trial's values.
        metrics: Objectives.
        seed: Seed of every trial's run.
        overrides: What was set for all trials.
        include: Ranges from the command line.
        space: All ranges.
        evaluate_every: Steps between evaluations of a trial; None evaluates at the end.
        total_steps: Steps of a trial.
        parent: MLflow id of the search's own run.
        trials: Trials in all; may grow.
        sampler: Name; may change.
        pruner: Name; may change.
        scheme: What ``content`` is made of; studies of older versions have 1, and their content is not compared.
        limits: Cost -> most that a trial's student may have.
    """

    method: str
    bench: str
    content: str
    metrics: tuple[str, ...]
    seed: int
    overrides: Mapping[str, Any]
    include: Mapping[str, Any]
    space: Mapping[str, Any]
    evaluate_every: int | None = None
    total_steps: int = 0
    parent: str = ""
    trials: int = 0
    sampler: str = "tpe"
    pruner: str = "median"
    scheme: int = 1
    limits: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, study: optuna.Study, patience: float = 30.0) -> Definition:
        """Of a study that exists; waits a little for whoever is making it.

        Raises:
            UsageError: The study was not made by kdflow.
        """
        end = time.monotonic() + patience
        while KEY not in study.user_attrs:
            if time.monotonic() > end:
                raise UsageError(f'the study "{study.study_name}" was not made by kdflow search; choose another --study')
            time.sleep(0.2)
        kept, known = study.user_attrs[KEY], {one.name for one in fields(cls)}
        content = {key: value for key, value in kept.items() if key in known}
        return cls(**{**content, "metrics": tuple(content["metrics"])})

    def write(self, study: optuna.Study) -> None:
        """Keep it with the study."""
        study.set_user_attr(KEY, asdict(self))

    def check(self, other: Definition, name: str) -> None:
        """Refuse to go on with a study that searched something else; raises UsageError that says what differs."""
        comparable = ("content",) if self.scheme == other.scheme else ()
        fixed = ("method", "bench", "metrics", "seed", "overrides", "space", "limits", *comparable)
        changed = [f for f in fixed if _plain(getattr(self, f)) != _plain(getattr(other, f))]
        if changed:
            words = "; ".join(_difference(f, getattr(self, f), getattr(other, f)) for f in changed)
            raise UsageError(f'the study "{name}" cannot go on: {words}. Next: choose another --study for a new search')

    def grown(self, trials: int, sampler: str, pruner: str) -> Definition:
        """The same study with more trials, or searched in another way."""
        return replace(self, trials=max(trials, self.trials), sampler=sampler, pruner=pruner)


def check_metrics(metrics: Sequence[str]) -> None:
    """Raise UsageError for an unknown or repeated objective."""
    for metric in metrics:
        if problem := metric_problem(metric):
            raise UsageError(f"--metric {metric}: {problem}")
    if len(set(metrics)) != len(metrics):
        raise UsageError("--metric: each metric once")


def directions(metrics: Sequence[str]) -> list[str]:
    """``maximize`` or ``minimize`` per objective."""
    return ["minimize" if metric in COSTS else "maximize" for metric in metrics]


def find_study(storage: RDBStorage, name: str) -> optuna.Study | None:
    """A study by name, None where there is none."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def new_study(storage: RDBStorage, name: str, metrics: Sequence[str]) -> optuna.Study:
    """Make a study; raises UsageError when the name is taken, be it by someone who was faster by a moment."""
    try:
        study = optuna.create_study(study_name=name, storage=storage, directions=directions(metrics))
    except optuna.exceptions.DuplicatedStudyError:
        raise UsageError(taken(name)) from None
    if len(metrics) > 1:
        study.set_user_attr("metrics", list(metrics))
    return study


def taken(name: str) -> str:
    """The message about a study that exists."""
    next_move = "--resume goes on with it, --join lets this worker join it, --study NAME starts another"
    return f'there is a study "{name}" already. Next: {next_move}'


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _difference(name: str, was: Any, now: Any) -> str:
    if name == "content":
        return "the method, the bench, its data, weights or code have changed since"
    if name == "space":
        return f"it searches {', '.join(was)} in other ranges" if set(was) == set(now) else f"it searches {', '.join(was)}"
    return f"its {name} {'are' if name in ('metrics', 'overrides', 'limits') else 'is'} {_plain(was)}, not {_plain(now)}"
