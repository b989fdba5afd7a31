"""Several runs side by side: one stream of batches, one pass of the teachers, and each run's own student, record and export."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path

from kdflow.engine.loop import FitResult
from kdflow.engine.together import fit_together
from kdflow.errors import UsageError
from kdflow.experiment.build import Teachers
from kdflow.experiment.identity import stream_of
from kdflow.experiment.request import Context, Notify, RunRequest
from kdflow.experiment.result import RunResult
from kdflow.experiment.run import Opened, open_run, record
from kdflow.experiment.session import Session, open_session
from kdflow.experiment.setup import Setting
from kdflow.folders import runs_folder
from kdflow.graph.share import Shared
from kdflow.tracking.trackers import chosen_trackers


def run_together(
    requests: Sequence[RunRequest],
    *,
    device: str = "auto",
    output: str | Path | None = None,
    resume: bool = False,
    notify: Notify = print,
    session: Session | None = None,
    trackers: Sequence[str] | None = None,
) -> list[RunResult]:
    """Check, compile, train, evaluate and record several runs on one stream of batches and one pass of the teachers.

    Each run leaves what :func:`kdflow.experiment.run.run` leaves, under the same hash: on a CPU, at one number of threads, its
    student is bit for bit the same. A run that fails while it trains leaves the group with the status ``failed``.

    Args:
        requests: Runs that see the same batches: same data, input size, batch, accumulation, precision and seed.
        device: ``auto``, ``cpu`` or ``cuda``.
        output: Folder of all runs; none takes ``$KDFLOW_RUNS``, else ``kdflow-runs``.
        resume: Go on from the last checkpoints; finished runs are reported, not repeated.
        notify: Receives one line per phase of the work.
        session: Device, data and teachers to share with other runs; none opens them for this group.
        trackers: What the runs are written to beside MLflow; none takes ``$KDFLOW_TRACKERS``.

    Returns:
        One result per request, in order.

    Raises:
        SpecError, UsageError, DataError: The user's mistakes, before training starts.
        InvariantError: A teacher is no better than chance.
    """
    others = chosen_trackers(trackers)
    settings = prepare_together(requests)
    with nullcontext(session) if session is not None else open_session(device) as own:
        return _run(requests, settings, Context(own, runs_folder(output), resume, notify, others))


def prepare_together(requests: Sequence[RunRequest]) -> list[Setting]:
    """Compile every request; equal teachers become one and the same object.

    Raises:
        SpecError, UsageError: Faults of a method or bench, or runs that do not see the same batches.
    """
    teachers: Teachers = {}
    settings = [request.prepared(teachers) for request in requests]
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


def _run(requests: Sequence[RunRequest], settings: Sequence[Setting], context: Context) -> list[RunResult]:
    found = [open_run(request, setting, context) for request, setting in zip(requests, settings)]
    _check_folders(found)
    todo = {place: opened for place, opened in enumerate(found) if isinstance(opened, Opened)}
    trained: dict[int, FitResult] = {}
    with ExitStack() as stack:
        for opened in todo.values():
            stack.enter_context(opened.work(context.resume))
        if todo:
            context.notify(f"training {len(todo)} students together: {', '.join(o.setting.method.method for o in todo.values())}")
            asked = [opened.fit(requests[place].hooks) for place, opened in todo.items()]
            loader = next(iter(todo.values())).feed.training
            share = partial(Shared, ahead=settings[0].bench.recipe.fast)
            results = fit_together(asked, loader, share, context.session.machine, resume=context.resume)
            trained = dict(zip(todo, results))
        return [record(one, trained[i], context.notify) if isinstance(one, Opened) else one for i, one in enumerate(found)]


def _check_folders(found: Sequence[Opened | RunResult]) -> None:
    """Equal runs would write into one folder."""
    folders: dict[str, str] = {}
    for one in found:
        folder = str(Path(one.folder).resolve())
        method = one.setting.method.method if isinstance(one, Opened) else one.method
        if folder in folders:
            raise UsageError(f"{method} stands twice in this group, with equal settings; leave one of them out")
        folders[folder] = method
