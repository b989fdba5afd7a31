"""A search from beginning to end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from kdflow.errors import UsageError, choices
from kdflow.events import Silent
from kdflow.experiment.costs import MEASURES
from kdflow.experiment.hashes import digest
from kdflow.experiment.ranges import SIZE, Ranges, teacher_sizes
from kdflow.experiment.reading import read_method
from kdflow.experiment.request import with_length
from kdflow.experiment.run import provide_teachers
from kdflow.experiment.session import Session, open_session
from kdflow.experiment.setup import Setting, prepare
from kdflow.experiment.together import why_apart
from kdflow.files import in_words
from kdflow.folders import checked_name, runs_folder, slug
from kdflow.search import definition as about
from kdflow.search.definition import Definition
from kdflow.search.objective import RunObjective
from kdflow.search.outcome import Outcome, conclude
from kdflow.search.parents import Parents
from kdflow.search.plain import SEEDS, run_plain
from kdflow.search.queue import BEAT, GRACE, Queue, open_storage, storage_url
from kdflow.search.sampling import PRUNERS, SAMPLERS, make_pruner, make_sampler
from kdflow.search.space import Space, read_includes, space_of
from kdflow.search.worker import Notify, Worker, worker_name
from kdflow.spec.method import PARENT, SearchRange
from kdflow.spec.metrics import COSTS, plain_name
from kdflow.spec.resolve import MethodSpec
from kdflow.tracking.mlflow import study_run
from kdflow.tracking.store import require_store

EVALUATIONS = 5
"""Evaluations of a trial, the last one included, where the bench names no interval and a pruner asks for some."""


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


TRIALS = 20


def search(spec: str | Path | MethodSpec, request: Request, notify: Notify = print) -> Outcome:
    """Search the weights (or any other values) of a method.

    Every trial is one run, judged on the validation split; the best trial's student is measured once on the test split.

    Args:
        spec: Slug, path, or a loaded method.
        request: What is asked.
        notify: Receives a line per trial.

    Raises:
        SpecError, UsageError: Mistakes, before anything is run.
        KeyboardInterrupt: Everything that is finished is kept; ``resume`` goes on.
    """
    begun = time.monotonic()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    method = spec if isinstance(spec, MethodSpec) else read_method(spec)
    request = replace(request, metrics=tuple(map(plain_name, request.metrics)))
    _check(request)
    name = request.study or _default_name(method, request.bench)
    output = runs_folder(request.output)
    require_store(output)
    with in_words(output):
        output.mkdir(parents=True, exist_ok=True)
    storage = open_storage(storage_url(request.storage, output))
    known = about.find_study(storage, name)
    if known is None:
        checked_name(name, "--study")
    request = replace(_completed(request, known, name, method), output=output)
    overrides = with_length(request.overrides, request.steps)
    setting = prepare(method, request.bench, overrides=overrides, seed=request.seed or 0)
    included = read_includes(request.include)
    _check_included(setting, included)
    space = space_of(setting, included)
    if sizes := teacher_sizes(space.ranges, setting.bench):
        overrides |= sizes
        setting = prepare(method, request.bench, overrides=overrides, seed=request.seed or 0)
        notify(f"{SIZE} is searched: the teacher is trained at {setting.bench.data.size} in all trials")
    _check_bounds(method, request, overrides, space, setting)
    make_sampler(str(request.sampler), space, 0, request.trials or 1, len(request.metrics) > 1)
    deadline = math.inf if request.timeout is None else begun + request.timeout
    if request.together > 1 and "step_ms" in request.metrics:
        raise UsageError("--together: trials side by side share a step's time, so they cannot be judged by step_ms")
    for path, reason in space.ignored.items():
        notify(f"{path}: {reason}, so it is not searched")
    with open_session(request.device) as session:
        feed = session.feed(setting)
        session.inspect(feed, notify, request.metrics)
        provide_teachers(setting, session, feed, notify=notify)
        wanted = _definition(setting, session, request, space)
        study, wanted, made = _enter(known, storage, name, wanted, request)
        queue = Queue(study, storage, wanted.trials, worker_name(), request.beat, request.grace)
        queue.fill(space.params(space.declared) if wanted.sampler != "grid" else None)
        was_complete = queue.finished == queue.size
        study.pruner = make_pruner(wanted.pruner, wanted.total_steps, wanted.evaluate_every or wanted.total_steps)
        terms = [term.name.removeprefix("kd/") for term in setting.plan.terms if term.is_distillation]
        inherits = any(rule.source == PARENT for rule in setting.method.init)
        objective = replace(
            _objective(method, space, wanted, session, request, name, notify), terms=terms, hooks=request.hooks,
            parents=Parents(space, wanted.metrics) if inherits else None,
        )
        if made or was_complete:
            run_plain(objective, queue, request.plain_seeds, notify, anyway=was_complete)
        sampler = partial(_sampler, wanted, space)
        worker = Worker(queue, objective, sampler, notify, deadline, group=objective, together=request.together)
        complete = worker.work()
        return conclude(
            method, queue, space, wanted, session, objective,
            mine=worker.mine, complete=complete, was_complete=was_complete, write=request.write, notify=notify,
            plain_seeds=request.plain_seeds,
        )


def _check(request: Request) -> None:
    if request.sampler is not None and request.sampler not in SAMPLERS:
        raise UsageError(f'no sampler "{request.sampler}".{choices(request.sampler, SAMPLERS)}')
    if request.pruner is not None and request.pruner not in PRUNERS:
        raise UsageError(f'no pruner "{request.pruner}".{choices(request.pruner, PRUNERS)}')
    about.check_metrics(request.metrics)
    limits_of(request.limits)
    if (len(request.metrics) > 1 or set(request.metrics) & set(COSTS)) and request.pruner not in (None, "none"):
        raise UsageError("--pruner: trials are pruned on one metric that is measured during training; give --pruner none")


def _check_included(setting: Setting, included: Mapping[str, SearchRange]) -> None:
    """What a method's own ranges are checked for when it is prepared, for those of the command line."""
    judge = Ranges(setting.bench_document, setting.bench, setting.detectors, setting.overrides)
    problems = judge.problems(included)
    if problems:
        raise UsageError("\n".join(f"--include {path}: {problem}" for path, problem in problems.items()))


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


def _completed(request: Request, known: optuna.Study | None, name: str, method: MethodSpec) -> Request:
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
    import json

    return json.dumps({key: value for key, value in entry.items() if value not in (None, [], False)})


def _check_bounds(
    method: MethodSpec, request: Request, overrides: Mapping[str, Any], space: Space, setting: Setting
) -> None:
    """Compile the ends of all ranges and every choice once: a range that the spec refuses should not show in trial 17."""
    corners: list[dict[str, Any]] = [
        {path: _end(entry.low) for path, entry in space.ranges.items() if not entry.choices},
        {path: _end(entry.high) for path, entry in space.ranges.items() if not entry.choices},
    ]
    corners += [{path: choice} for path, entry in space.ranges.items() for choice in entry.choices]
    for corner in corners:
        if not corner:
            continue
        other = prepare(method, request.bench, overrides={**overrides, **corner}, seed=request.seed or 0)
        if request.together > 1 and (difference := why_apart(setting, other)):
            raise UsageError(
                f"--together: trials would not see the same batches, because {', '.join(corner)} changes them: {difference}. "
                "Next: leave --together out"
            )


def _end(value: float | None) -> float | int | None:
    return int(value) if value is not None and float(value).is_integer() else value


def _default_name(method: MethodSpec, bench: str | Path | None) -> str:
    place = Path(str(bench)).stem if bench is not None else method.resolve().bench
    return slug(f"{method.name}-{place}" if place else method.name)


def _definition(setting: Setting, session: Session, request: Request, space: Space) -> Definition:
    total = session.feed(setting).total_steps
    every = setting.bench.recipe.evaluate_every
    if every is None and request.pruner != "none":
        every = max(1, math.ceil(total / EVALUATIONS))
    return Definition(
        method=setting.method.method, bench=setting.bench.bench, content=session.identify(setting).definition,
        metrics=tuple(request.metrics), seed=request.seed or 0, overrides=dict(setting.overrides),
        include={path: entry.model_dump(mode="json") for path, entry in read_includes(request.include).items()},
        space=space.as_json(), evaluate_every=every, total_steps=total, trials=request.trials or TRIALS,
        sampler=str(request.sampler), pruner=str(request.pruner), scheme=about.SCHEME,
        limits=limits_of(request.limits),
    )


def _enter(
    known: optuna.Study | None, storage: Any, name: str, wanted: Definition, request: Request
) -> tuple[optuna.Study, Definition, bool]:
    """Make the study (True), or join the one there is (or that another worker has made meanwhile)."""
    if known is None:
        try:
            study = about.new_study(storage, name, wanted.metrics)
        except UsageError:
            if not request.join:
                raise
            known = about.find_study(storage, name)
    if known is not None:
        was = Definition.read(known)
        was.check(wanted, name)
        joined = was.grown(wanted.trials, wanted.sampler, wanted.pruner)
        if joined != was:
            joined.write(known)
        return known, joined, False
    parent = study_run(wanted.bench, name, runs_folder(request.output))
    wanted = replace(wanted, parent=parent)
    wanted.write(study)
    return study, wanted, True


def _sampler(wanted: Definition, space: Space, number: int) -> Any:
    seed = int(digest({"seed": wanted.seed, "trial": number}), 16) % 2**32
    return make_sampler(wanted.sampler, space, seed, wanted.trials, len(wanted.metrics) > 1)


def _objective(
    method: MethodSpec, space: Space, wanted: Definition, session: Session, request: Request, name: str, notify: Notify
) -> RunObjective:
    overrides = dict(wanted.overrides)
    if wanted.evaluate_every is not None and wanted.evaluate_every < wanted.total_steps:
        overrides["recipe.evaluate_every"] = wanted.evaluate_every
    if wanted.metrics[0] in about.CHOOSES_BEST:
        overrides["evaluation.metric"] = wanted.metrics[0]
    settings = {"bench": request.bench, "seed": wanted.seed, "output": runs_folder(request.output)}
    return RunObjective(
        method, space, wanted.metrics, slug(name), wanted.parent, session, settings, overrides, notify=notify,
        limits=wanted.limits,
    )
