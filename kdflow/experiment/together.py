"""Several runs side by side: one stream of batches, one pass of the teachers, and each run's own student, record and export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdflow.engine.hooks import Hook
from kdflow.engine.loop import FitResult
from kdflow.engine.together import Member, fit_together
from kdflow.errors import UsageError
from kdflow.experiment.identity import stream_of
from kdflow.experiment.result import RunResult
from kdflow.experiment.run import Opened, TrialOf, open_run, record, refuse_silent, with_length
from kdflow.experiment.session import Session, open_session
from kdflow.experiment.setup import Setting, Teachers, prepare, read_method
from kdflow.folders import runs_folder
from kdflow.graph.share import Shared
from kdflow.spec.resolve import MethodSpec

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """One run of a group.

    Attributes:
        spec: Slug, path, or a loaded method.
        bench: Name or path; none takes the method's own.
        seed: Seed of weights, data order and all random streams.
        overrides: Dotted path of method or bench -> value.
        hooks: Further listeners.
        trial: The run is a trial of a search.
    """

    spec: str | Path | MethodSpec
    bench: str | Path | None = None
    seed: int = 0
    overrides: Mapping[str, Any] = field(default_factory=dict)
    hooks: Sequence[Hook] = ()
    trial: TrialOf | None = None


def run_together(
    requests: Sequence[Request],
    *,
    steps: int | None = None,
    device: str = "auto",
    precision: str | None = None,
    compiled: bool = False,
    calibrate: bool = False,
    output: str | Path | None = None,
    resume: bool = False,
    notify: Notify = print,
    session: Session | None = None,
) -> list[RunResult]:
    """Check, compile, train, evaluate and record several runs on one stream of batches and one pass of the teachers.

    Each run leaves what :func:`kdflow.experiment.run.run` leaves, under the same hash: on a CPU, at one number of threads, its
    student is bit for bit the same. A run that fails while it trains leaves the group with the status ``failed``.

    Args:
        requests: Runs that see the same batches: same data, input size, batch, accumulation, precision and seed.
        steps: Length of training, in place of the recipes'.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: In place of the recipes'.
        compiled: Use torch.compile on what is dense, whatever the recipes say.
        calibrate: Set the methods' weights by their share of the gradient.
        output: Folder of all runs; none takes ``$KDFLOW_RUNS``, else ``kdflow-runs``.
        resume: Go on from the last checkpoints; finished runs are reported, not repeated.
        notify: Receives one line per phase of the work.
        session: Device, data and teachers to share with other runs; none opens them for this group.

    Returns:
        One result per request, in order.

    Raises:
        SpecError, UsageError, DataError: The user's mistakes, before training starts.
        InvariantError: A teacher is no better than chance.
    """
    settings = prepare_together(requests, steps, precision, compiled, calibrate)
    place = runs_folder(output)
    if session is not None:
        return _run(requests, settings, session, place, resume, notify)
    with open_session(device) as own:
        return _run(requests, settings, own, place, resume, notify)


def prepare_together(
    requests: Sequence[Request],
    steps: int | None = None,
    precision: str | None = None,
    compiled: bool = False,
    calibrate: bool = False,
) -> list[Setting]:
    """Compile every request; equal teachers become one and the same object.

    Raises:
        SpecError, UsageError: Faults of a method or bench, or runs that do not see the same batches.
    """
    teachers: Teachers = {}
    methods = [r.spec if isinstance(r.spec, MethodSpec) else read_method(r.spec) for r in requests]
    settings = []
    for method, request in zip(methods, requests):
        changes = with_length(request.overrides, steps, precision, compiled, calibrate)
        settings.append(prepare(method, request.bench, overrides=changes, seed=request.seed, teachers=teachers))
    for setting in settings[1:]:
        if difference := why_apart(settings[0], setting):
            first, other = settings[0].method.method, setting.method.method
            raise UsageError(
                f"{first} and {other} cannot be trained together, because they would not see the same batches: {difference}. "
                "Run them one after the other, or make these equal"
            )
    return settings


def why_apart(first: Setting, other: Setting) -> str:
    """What keeps two runs from sharing one stream of batches, in words; empty when nothing does."""
    one, two = stream_of(first), stream_of(other)
    keys = sorted(one.keys() | two.keys())
    return ", ".join(f"{key} is {one.get(key)} and {two.get(key)}" for key in keys if one.get(key) != two.get(key))


def _run(
    requests: Sequence[Request],
    settings: Sequence[Setting],
    session: Session,
    output: Path,
    resume: bool,
    notify: Notify,
) -> list[RunResult]:
    found = [
        open_run(setting, session, output, resume, request.hooks, notify, request.trial)
        for setting, request in zip(settings, requests)
    ]
    _check_folders(found)
    todo = [opened for opened in found if isinstance(opened, Opened)]
    hooks = {id(opened): request.hooks for opened, request in zip(found, requests)}
    trained: dict[int, FitResult] = {}
    with ExitStack() as stack:
        for opened in todo:
            stack.enter_context(opened.work(resume))
        if todo:
            feed = todo[0].feed
            notify(f"training {len(todo)} students together: {', '.join(o.setting.method.method for o in todo)}")
            members = [_member(opened, hooks[id(opened)]) for opened in todo]
            results = fit_together(
                members, feed.training, Shared, session.machine, steps_per_epoch=feed.steps_per_epoch, resume=resume
            )
            trained = {id(opened): result for opened, result in zip(todo, results)}
        return [record(one, trained[id(one)], notify) if isinstance(one, Opened) else one for one in found]


def _member(opened: Opened, hooks: Sequence[Hook]) -> Member:
    setting, feed = opened.setting, opened.feed
    refuse_silent(setting, feed)
    return Member(
        setting.plan,
        setting.bench.recipe,
        opened.folder,
        feed.total_steps,
        setting.seed,
        opened.identity,
        [*opened.listeners, *hooks],
        opened.evaluate,
        setting.bench.evaluation.metric,
        setting.method.phases,
        feed.one_pass,
        opened.measure,
    )


def _check_folders(found: Sequence[Opened | RunResult]) -> None:
    """Equal runs would write into one folder."""
    folders: dict[str, str] = {}
    for one in found:
        folder = str(Path(one.folder).resolve())
        method = one.setting.method.method if isinstance(one, Opened) else one.method
        if folder in folders:
            raise UsageError(f"{method} stands twice in this group, with equal settings; leave one of them out")
        folders[folder] = method
