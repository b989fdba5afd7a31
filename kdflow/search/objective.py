"""A trial is a run: judged on the validation split, stopped early where the pruner sees no hope."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import torch

from kdflow.errors import InvariantError
from kdflow.events import EvaluationEvent, RunStarted, Silent, StopRun
from kdflow.experiment.costs import MEASURES
from kdflow.experiment.request import RunRequest, TrialOf
from kdflow.experiment.result import RunResult
from kdflow.experiment.run import run
from kdflow.experiment.session import Session
from kdflow.experiment.together import run_together
from kdflow.search.parents import Parents
from kdflow.search.space import Space
from kdflow.search.worker import Drawn, InterruptedTrialError, Judged, Notify, breaks_device, reason_of
from kdflow.spec.metrics import COSTS
from kdflow.spec.resolve import MethodSpec


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
        terms: Distillation terms of the method on the bench.
        notify: Told why trials that should train together do not.
        limits: Cost -> most that a trial's student may have; one that costs more is not trained.
        parents: Finds the trial that another one takes weights from; None where the method does not ask for any.
    """

    spec: MethodSpec
    space: Space
    metrics: Sequence[str]
    study: str
    parent: str
    session: Session | None
    settings: Mapping[str, Any]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    hooks: Callable[[int | str], Sequence[Silent]] = lambda _: ()
    terms: Sequence[str] = ()
    notify: Notify = quiet
    limits: Mapping[str, float] = field(default_factory=dict)
    parents: Parents | None = None

    def __call__(self, trial: optuna.Trial) -> Judged:
        """One run.

        Raises:
            InterruptedTrialError: The run was asked to end (SIGTERM).
        """
        return self.alone(self.draw(trial))

    def draw(self, trial: optuna.Trial) -> Drawn:
        """Values for a trial."""
        again = bool(trial.params)
        values = self.space.suggest(trial)
        return Drawn(trial, values, again, self.parents.start_of(trial, values) if self.parents else None)

    def alone(self, drawn: Drawn) -> Judged:
        """One trial; errors as for calling."""
        with memory_returned():
            result = run(
                self.spec,
                **self.settings,
                overrides={**self.overrides, **drawn.values},
                resume=drawn.again,
                hooks=self._hooks(drawn.trial),
                notify=quiet,
                session=self.session,
                trial=self._trial_of(drawn),
            )
        return self._judged(result)

    def plain(self, seed: int) -> RunResult:
        """The run of a trial with all distillation left out, to the end; nothing prunes it.

        Raises:
            InterruptedTrialError: The run was asked to end (SIGTERM).
        """
        zeros = {f"terms.{name}.weight": 0.0 for name in self.terms}
        common = {path: value for path, value in self.overrides.items() if not path.startswith(tuple(zeros))}
        name = f"plain-s{seed}"
        with memory_returned():
            result = run(
                self.spec,
                **{**self.settings, "seed": seed},
                overrides={**common, **zeros},
                resume=True,
                hooks=self.hooks(name),
                notify=quiet,
                session=self.session,
                trial=TrialOf(self.study, name, self.parent),
            )
        if result.status == "interrupted":
            raise InterruptedTrialError(f"the run without distillation was interrupted: {result.reason}. Next: --resume")
        _tidy(Path(result.folder), keep_best=True)
        return result

    def side_by_side(self, drawn: Sequence[Drawn]) -> list[Judged | Exception]:
        """Several trials on one pass of the teacher, where they see the same batches and memory suffices.

        Trials that cannot train together run one after the other.

        Raises:
            KeyboardInterrupt: Nothing is judged.
            InterruptedTrialError: One of several that ran one after the other was asked to end, so the next ones never began.
            RuntimeError: The device is broken.
        """
        found: dict[int, Judged | Exception] = {}
        for again in (False, True):
            group = [one for one in drawn if one.again is again]
            found |= {one.trial.number: outcome for one, outcome in zip(group, self._group(group))}
        return [found[one.trial.number] for one in drawn]

    def _group(self, drawn: Sequence[Drawn]) -> list[Judged | Exception]:
        if len(drawn) < 2:
            return [self._attempt(one) for one in drawn]
        try:
            with memory_returned():
                results = self._run_together(drawn)
        except Exception as error:
            if breaks_device(error):
                raise
            if "out of memory" in str(error).lower():
                self.notify(f"{len(drawn)} trials together do not fit in memory; they go on in two halves")
                middle = len(drawn) // 2
                return [*self._group(drawn[:middle]), *self._group(drawn[middle:])]
            self.notify(f"{len(drawn)} trials run one after the other: {reason_of(error)}")
            return [self._attempt(one) for one in drawn]
        return [self._outcome(result) for result in results]

    def _run_together(self, drawn: Sequence[Drawn]) -> list[RunResult]:
        settings = dict(self.settings)
        output = settings.pop("output")
        requests = [
            RunRequest(
                self.spec,
                **settings,
                overrides={**self.overrides, **one.values},
                hooks=self._hooks(one.trial),
                trial=self._trial_of(one),
            )
            for one in drawn
        ]
        return run_together(requests, output=output, resume=drawn[0].again, notify=quiet, session=self.session)

    def _attempt(self, drawn: Drawn) -> Judged | Exception:
        try:
            return self.alone(drawn)
        except Exception as error:
            if breaks_device(error) or isinstance(error, InterruptedTrialError):
                raise
            return error

    def _outcome(self, result: RunResult) -> Judged | Exception:
        if result.status == "failed":
            culprit, _, problem = result.reason.partition(": ")
            return InvariantError(culprit, problem)
        try:
            return self._judged(result)
        except InterruptedTrialError as interrupted:
            return interrupted

    def _hooks(self, trial: optuna.Trial) -> list[Silent]:
        hooks: list[Silent] = [*self.hooks(trial.number)]
        if len(self.metrics) == 1 and self.metrics[0] not in COSTS:
            hooks.append(PruneHook(trial, self.metrics[0]))
        return hooks

    def _trial_of(self, drawn: Drawn) -> TrialOf:
        costs = tuple(name for name in MEASURES if name in (*self.metrics, *self.limits))
        return TrialOf(self.study, drawn.trial.number, self.parent, costs, self.limits, drawn.start)

    def _judged(self, result: RunResult) -> Judged:
        if result.status == "interrupted":
            raise InterruptedTrialError(f"a trial was interrupted: {result.reason}. Next: --resume goes on with it")
        _tidy(Path(result.folder), keep_best=result.status == "finished")
        facts = {
            "folder": result.folder, "run_id": result.run_id, "validation": dict(result.validation),
            "step_ms": result.step_ms, "added_parameters": result.added_parameters, "overrides": dict(self.overrides),
            **result.costs,
        }
        if result.status == "stopped":
            return Judged(None, result.reason, facts)
        return Judged([self._value(result, metric) for metric in self.metrics], facts=facts)

    def _value(self, result: RunResult, metric: str) -> float:
        if metric in COSTS:
            value = result.costs.get(metric, getattr(result, metric, None))
            return float("nan") if value is None else float(value)
        return result.validation[metric]


@contextmanager
def memory_returned() -> Iterator[None]:
    """What a run held is free again behind it."""
    try:
        yield
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _tidy(folder: Path, keep_best: bool) -> None:
    """Of a trial that is over, only the best student is kept."""
    for file in folder.glob("*.pt"):
        if not (keep_best and file.name == "best.pt"):
            file.unlink()
