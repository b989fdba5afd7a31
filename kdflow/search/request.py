"""What a user asks of a search, checked as far as nothing has to be built for it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna

from kdflow.errors import UsageError, choices
from kdflow.events import Silent
from kdflow.experiment.costs import MEASURES
from kdflow.search import definition as about
from kdflow.search.definition import Definition
from kdflow.search.plain import SEEDS
from kdflow.search.queue import BEAT, GRACE
from kdflow.search.sampling import PRUNERS, SAMPLERS
from kdflow.spec.metrics import COSTS, plain_name
from kdflow.spec.resolve import MethodSpec

TRIALS = 20


@dataclass(frozen=True)
class Request:
    """What a user asks of a search; None is filled in from the study that is resumed, or by default.

    Attributes:
        trials: Finished trials of the study in all.
        bench: Bench name or file.
        study: Name; by default made of method and bench.
        storage: Optuna database URL; by default ``search.db`` in ``output``.
        sampler: ``tpe``, ``nsga2``, ``cmaes``, ``random``, ``grid`` or ``gp``.
        pruner: ``median``, ``hyperband`` or ``none``.
        metrics: Objectives; several make a Pareto front and cannot be pruned. Without any those of the method count.
        limits: ``COST=NUMBER``: a trial whose student costs more is not trained.
        include: ``PATH=RANGE`` beside the spec's own ranges.
        overrides: Dotted path -> value in every trial.
        steps: Length of every trial.
        seed: Seed of every trial's run, and of the sampler.
        timeout: Seconds after which no further trial begins.
        resume: Go on with (or join) a study of this name.
        join: Begin the study, or join whoever has begun it.
        together: Up to so many trials are trained side by side on one pass of the teacher; fewer where memory does not suffice.
        device: ``auto``, ``cpu`` or ``cuda``.
        output: Folder of runs; none takes ``$KDFLOW_RUNS``, else ``kdflow-runs``.
        write: Where to write the method with the best values.
        plain_seeds: Seeds of the student without distillation, which every search is measured against.
        hooks: Trial number, or name of a run without distillation -> listeners of its training.
        beat: Seconds between signs of life of a running trial.
        grace: Seconds without one after which a trial goes to another worker.
    """

    trials: int | None = None
    bench: str | Path | None = None
    study: str | None = None
    storage: str | None = None
    sampler: str | None = None
    pruner: str | None = None
    metrics: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    seed: int | None = None
    timeout: float | None = None
    resume: bool = False
    join: bool = False
    together: int = 1
    device: str = "auto"
    output: str | Path | None = None
    write: Path | None = None
    plain_seeds: int = SEEDS
    hooks: Callable[[int | str], Sequence[Silent]] = lambda _: ()
    beat: float = BEAT
    grace: float = GRACE


def check(request: Request) -> None:
    """Raises UsageError for names and combinations that no method can make right."""
    if request.sampler is not None and request.sampler not in SAMPLERS:
        raise UsageError(f'no sampler "{request.sampler}".{choices(request.sampler, SAMPLERS)}')
    if request.pruner is not None and request.pruner not in PRUNERS:
        raise UsageError(f'no pruner "{request.pruner}".{choices(request.pruner, PRUNERS)}')
    about.check_metrics(request.metrics)
    limits_of(request.limits)
    if (len(request.metrics) > 1 or set(request.metrics) & set(COSTS)) and request.pruner not in (None, "none"):
        raise UsageError("--pruner: trials are pruned on one metric that is measured during training; give --pruner none")
    if request.together > 1 and "step_ms" in request.metrics:
        raise UsageError("--together: trials side by side share a step's time, so they cannot be judged by step_ms")


def limits_of(pairs: Sequence[str]) -> dict[str, float]:
    """``["flops=2e9"]`` -> numbers; raises UsageError for anything else."""
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        cost = plain_name(name.strip())
        if cost not in MEASURES:
            raise UsageError(f"--limit {pair}: {name or 'nothing'} is not known before training.{choices(name, MEASURES)}")
        try:
            found[cost] = float(text)
        except ValueError:
            raise UsageError(f"--limit {pair}: write COST=NUMBER, for example flops=2e9") from None
        if not 0 < found[cost] < math.inf:
            raise UsageError(f"--limit {pair}: a limit is above 0")
    return found


def completed(request: Request, known: optuna.Study | None, name: str, method: MethodSpec) -> Request:
    """The request with what it leaves open filled in: by the study that it resumes, else by default."""
    if known is not None and not (request.resume or request.join):
        raise UsageError(about.taken(name))
    if known is None and request.resume:
        raise UsageError(f'there is no study "{name}" to resume. Next: leave --resume out, or name it with --study')
    if known is None:
        metrics = request.metrics or method.resolve().metric or ("AP",)
        prunes = len(metrics) == 1 and metrics[0] not in COSTS
        return replace(
            request, metrics=metrics, trials=request.trials or TRIALS, seed=request.seed or 0,
            sampler=request.sampler or ("nsga2" if len(metrics) > 1 else "tpe"),
            pruner=request.pruner or ("median" if prunes else "none"),
        )
    was = Definition.read(known)
    open_settings = not request.overrides and request.steps is None
    return replace(
        request,
        metrics=request.metrics or was.metrics,
        limits=request.limits or tuple(f"{cost}={most}" for cost, most in was.limits.items()),
        trials=request.trials or was.trials,
        sampler=request.sampler or was.sampler, pruner=request.pruner or was.pruner,
        seed=was.seed if request.seed is None else request.seed,
        overrides=was.overrides if open_settings else request.overrides,
        include=request.include or tuple(f"{path}={_text(entry)}" for path, entry in was.include.items()),
    )


def _text(entry: Mapping[str, Any]) -> str:
    return json.dumps({key: value for key, value in entry.items() if value not in (None, [], False)})
