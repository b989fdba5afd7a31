"""A trial is a run: judged on the validation split, stopped early where the pruner sees no hope."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import torch

from kdflow.engine.hooks import EvaluationEvent, RunStarted, Silent, StopRun
from kdflow.experiment.run import RunResult, TrialOf, run
from kdflow.experiment.session import Session
from kdflow.search.space import Space
from kdflow.search.worker import InterruptedTrialError, Judged
from kdflow.spec.resolve import MethodSpec

COSTS = ("step_ms", "added_parameters")
"""Metrics of which less is better; they come from the run itself, not from its evaluation."""


def quiet(_: str) -> None:
    """Says nothing."""


class PruneHook(Silent):
    """Reports intermediate results to the pruner, and stops a run that it gives up.

    Args:
        trial: The trial.
        metric: Which metric is reported.
    """

    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        self.trial = trial
        self.metric = metric
        self.total_steps = 0
        self._known = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def run_started(self, event: RunStarted) -> None:
        """Note the length of the run."""
        self.total_steps = event.total_steps

    def evaluation_ended(self, event: EvaluationEvent) -> None:
        """Report; raises StopRun when the trial is pruned. The last evaluation decides nothing, so it is only reported."""
        if event.step not in self._known:
            self._known.add(event.step)
            self.trial.report(event.metrics[self.metric], event.step)
        if event.step < self.total_steps and self.trial.should_prune():
            value = event.metrics[self.metric]
            raise StopRun(f"pruned at step {event.step} of {self.total_steps}, {self.metric} {value:.2f}")


@dataclass
class RunObjective:
    """Runs the method with a trial's values.

    Attributes:
        spec: The method.
        space: What is searched.
        metrics: Objectives; the first one is reported to the pruner, if it is the only one.
        study: Name of the study.
        parent: MLflow id of the search's own run.
        session: Device, data and teachers.
        settings: ``bench``, ``seed`` and ``output`` for every run.
        overrides: Values that are the same in every trial.
        hooks: Trial number -> further listeners of its run.
    """

    spec: MethodSpec
    space: Space
    metrics: Sequence[str]
    study: str
    parent: str
    session: Session | None
    settings: Mapping[str, Any]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    hooks: Callable[[int], Sequence[Silent]] = lambda _: ()

    def __call__(self, trial: optuna.Trial) -> Judged:
        """One run.

        Raises:
            InterruptedTrialError: The run was asked to end (SIGTERM).
        """
        again = bool(trial.params)
        values = self.space.suggest(trial)
        hooks: list[Silent] = [*self.hooks(trial.number)]
        if len(self.metrics) == 1 and self.metrics[0] not in COSTS:
            hooks.append(PruneHook(trial, self.metrics[0]))
        try:
            result = run(
                self.spec,
                **self.settings,
                overrides={**self.overrides, **values},
                resume=again,
                hooks=hooks,
                notify=quiet,
                session=self.session,
                trial=TrialOf(self.study, trial.number, self.parent),
            )
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return self._judged(result)

    def _judged(self, result: RunResult) -> Judged:
        if result.status == "interrupted":
            raise InterruptedTrialError(f"a trial was interrupted: {result.reason}. Next: --resume goes on with it")
        _tidy(Path(result.folder), keep_best=result.status == "finished")
        facts = {
            "folder": result.folder, "run_id": result.run_id, "validation": dict(result.validation),
            "step_ms": result.step_ms, "added_parameters": result.added_parameters, "overrides": dict(self.overrides),
        }
        if result.status == "stopped":
            return Judged(None, result.reason, facts)
        return Judged([self._value(result, metric) for metric in self.metrics], facts=facts)

    def _value(self, result: RunResult, metric: str) -> float:
        if metric in COSTS:
            value = getattr(result, metric)
            return float("nan") if value is None else float(value)
        return result.validation[metric]


def _tidy(folder: Path, keep_best: bool) -> None:
    """Of a trial that is over, only the best student is kept."""
    for file in folder.glob("*.pt"):
        if not (keep_best and file.name == "best.pt"):
            file.unlink()
