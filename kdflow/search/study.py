"""A search from beginning to end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage

from kdflow.errors import UsageError
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
from kdflow.search.plain import run_plain
from kdflow.search.queue import Queue, open_storage, storage_url
from kdflow.search.request import TRIALS, Request, check, completed, limits_of
from kdflow.search.sampling import make_pruner, make_sampler
from kdflow.search.space import Space, read_includes, space_of
from kdflow.search.worker import Notify, Worker, worker_name
from kdflow.spec.method import PARENT, SearchRange
from kdflow.spec.metrics import plain_name
from kdflow.spec.resolve import MethodSpec
from kdflow.tracking.mlflow import study_run
from kdflow.tracking.store import require_store

EVALUATIONS = 5
"""Evaluations of a trial, the last one included, where the bench names no interval and a pruner asks for some."""


@dataclass(frozen=True)
class Asked:
    """A search that was checked; nothing of it runs yet.

    Attributes:
        method: The method as written.
        request: What is asked, with nothing left open.
        name: Name of the study.
        storage: Where it lies.
        known: The study, where it was begun before.
        overrides: Dotted path -> value in every trial.
        setting: The method at its declared values.
        space: What is searched.
    """

    method: MethodSpec
    request: Request
    name: str
    storage: RDBStorage
    known: optuna.Study | None
    overrides: Mapping[str, Any]
    setting: Setting
    space: Space


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
    asked = _asked(spec if isinstance(spec, MethodSpec) else read_method(spec), request, notify)
    deadline = math.inf if request.timeout is None else begun + request.timeout
    with open_session(request.device) as session:
        feed = session.feed(asked.setting)
        session.inspect(feed, notify, asked.request.metrics)
        provide_teachers(asked.setting, session, feed, notify=notify)
        return _carry_out(asked, session, deadline, notify)


def _asked(method: MethodSpec, request: Request, notify: Notify) -> Asked:
    """Everything that can be wrong before data are read is said here."""
    request = replace(request, metrics=tuple(map(plain_name, request.metrics)))
    check(request)
    name = request.study or _default_name(method, request.bench)
    output = runs_folder(request.output)
    require_store(output)
    with in_words(output):
        output.mkdir(parents=True, exist_ok=True)
    storage = open_storage(storage_url(request.storage, output))
    known = about.find_study(storage, name)
    if known is None:
        checked_name(name, "--study")
    request = replace(completed(request, known, name, method), output=output)
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
    for path, reason in space.ignored.items():
        notify(f"{path}: {reason}, so it is not searched")
    return Asked(method, request, name, storage, known, overrides, setting, space)


def _carry_out(asked: Asked, session: Session, deadline: float, notify: Notify) -> Outcome:
    """Make or join the study, run trials until it is complete or the time is up, and sum up."""
    method, request, setting, space = asked.method, asked.request, asked.setting, asked.space
    study, wanted, made = _enter(asked, _definition(setting, session, request, space))
    queue = Queue(study, asked.storage, wanted.trials, worker_name(), request.beat, request.grace)
    queue.fill(space.params(space.declared) if wanted.sampler != "grid" else None)
    was_complete = queue.finished == queue.size
    study.pruner = make_pruner(wanted.pruner, wanted.total_steps, wanted.evaluate_every or wanted.total_steps)
    objective = _objective(asked, wanted, session, notify)
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


def _check_included(setting: Setting, included: Mapping[str, SearchRange]) -> None:
    """What a method's own ranges are checked for when it is prepared, for those of the command line."""
    judge = Ranges(setting.bench_document, setting.bench, setting.detectors, setting.overrides)
    problems = judge.problems(included)
    if problems:
        raise UsageError("\n".join(f"--include {path}: {problem}" for path, problem in problems.items()))


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


def _enter(asked: Asked, wanted: Definition) -> tuple[optuna.Study, Definition, bool]:
    """Make the study (True), or join the one there is (or that another worker has made meanwhile)."""
    known, storage, name = asked.known, asked.storage, asked.name
    if known is None:
        try:
            study = about.new_study(storage, name, wanted.metrics)
        except UsageError:
            if not asked.request.join:
                raise
            known = about.find_study(storage, name)
    if known is not None:
        was = Definition.read(known)
        was.check(wanted, name)
        joined = was.grown(wanted.trials, wanted.sampler, wanted.pruner)
        if joined != was:
            joined.write(known)
        return known, joined, False
    wanted = replace(wanted, parent=study_run(wanted.bench, name, runs_folder(asked.request.output)))
    wanted.write(study)
    return study, wanted, True


def _sampler(wanted: Definition, space: Space, number: int) -> Any:
    seed = int(digest({"seed": wanted.seed, "trial": number}), 16) % 2**32
    return make_sampler(wanted.sampler, space, seed, wanted.trials, len(wanted.metrics) > 1)


def _objective(asked: Asked, wanted: Definition, session: Session, notify: Notify) -> RunObjective:
    """What carries out a trial."""
    request, setting, space = asked.request, asked.setting, asked.space
    overrides = dict(wanted.overrides)
    if wanted.evaluate_every is not None and wanted.evaluate_every < wanted.total_steps:
        overrides["recipe.evaluate_every"] = wanted.evaluate_every
    if wanted.metrics[0] in about.CHOOSES_BEST:
        overrides["evaluation.metric"] = wanted.metrics[0]
    settings = {"bench": request.bench, "seed": wanted.seed, "output": runs_folder(request.output)}
    inherits = any(rule.source == PARENT for rule in setting.method.init)
    return RunObjective(
        asked.method, space, wanted.metrics, slug(asked.name), wanted.parent, session, settings, overrides, notify=notify,
        limits=wanted.limits, hooks=request.hooks, parents=Parents(space, wanted.metrics) if inherits else None,
        terms=[term.name.removeprefix("kd/") for term in setting.plan.terms if term.is_distillation],
    )
