"""Jobs as a queue in a database: the runs of a sweep or a comparison, shared by however many workers there are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from kdflow.errors import UsageError
from kdflow.events import Hook
from kdflow.experiment.hashes import digest
from kdflow.experiment.session import Session
from kdflow.experiment.sweep import (
    FAILED,
    HELD,
    INTERRUPTED,
    Job,
    JobResult,
    record_of,
    result_facts,
    result_from,
    run_jobs,
)
from kdflow.folders import checked_name
from kdflow.search.definition import find_study
from kdflow.search.objective import memory_returned
from kdflow.search.queue import BEAT, GRACE, Queue, open_storage, storage_url
from kdflow.search.sampling import GridSampler
from kdflow.search.worker import (
    BrokenDeviceError,
    Drawn,
    HeldTrialError,
    InterruptedTrialError,
    Judged,
    Notify,
    ReportedError,
    Worker,
    worker_name,
)

KEY, RESULT, BEGUN = "kdflow.jobs", "result", "begun"
"""User attributes: of the study, what its jobs are; of a trial, what came of it, and that some worker began it."""


@dataclass(frozen=True)
class Sharing:
    """How workers share jobs.

    Attributes:
        name: What the workers call it.
        storage: Database URL; by default ``search.db`` in the folder of runs.
        resume: Go on with what was begun before, failed jobs included.
        join: Begin it, or join whoever has begun it.
        together: Up to so many jobs that see the same batches are trained side by side.
        beat: Seconds between signs of life of a running job.
        grace: Seconds without one after which a job goes to another worker.
        poll: Seconds between two looks at a queue in which nothing waits.
    """

    name: str
    storage: str | None = None
    resume: bool = False
    join: bool = False
    together: int = 1
    beat: float = BEAT
    grace: float = GRACE
    poll: float = 2.0

    def __post_init__(self) -> None:
        checked_name(self.name, "--name")

    def url(self, output: Path) -> str:
        """The database."""
        return storage_url(self.storage, output)


def run_tidily(jobs: Sequence[Job], session: Session, output: Path, **options: Any) -> list[JobResult]:
    """:func:`kdflow.experiment.sweep.run_jobs`, with the memory free again behind it."""
    with memory_returned():
        return list(run_jobs(jobs, session, output, **options))


@dataclass
class JobRunner:
    """Carries out a queue's jobs: trial n is job n.

    Attributes:
        jobs: All of them.
        session: Device, data and teachers.
        output: Folder of runs.
        hooks: Listeners of a job's run.
        notify: Receives a line per phase.
        runner: Carries out some jobs.
    """

    jobs: Sequence[Job]
    session: Session
    output: Path
    hooks: Callable[[Job], Sequence[Hook]] = lambda _: ()
    notify: Notify = print
    runner: Callable[..., Iterable[JobResult]] = run_tidily

    def __call__(self, trial: optuna.Trial) -> Judged:
        """One job; raises what :meth:`side_by_side` gives in its place."""
        (outcome,) = self.side_by_side([self.draw(trial)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def draw(self, trial: optuna.Trial) -> Drawn:
        """The job's values are known; whether some worker began it before is noted."""
        again = BEGUN in trial.user_attrs
        trial.set_user_attr(BEGUN, True)
        return Drawn(trial, {}, again)

    def side_by_side(self, drawn: Sequence[Drawn]) -> list[Judged | Exception]:
        """Some jobs; those that were begun before go on from their checkpoints."""
        begun = {one.trial.number: self._begun(one) for one in drawn}  # before anything runs, and thereby begins
        found: dict[int, Judged | Exception] = {}
        for again in (False, True):
            found |= self._carry_out([number for number, was in begun.items() if was is again], again)
        return [found[one.trial.number] for one in drawn]

    def _begun(self, drawn: Drawn) -> bool:
        return drawn.again or record_of(self.jobs[drawn.trial.number], self.output) is not None

    def _carry_out(self, numbers: Sequence[int], again: bool) -> dict[int, Judged | Exception]:
        jobs = [self.jobs[number] for number in numbers]
        options = {
            "resume": again, "together": max(1, len(jobs)), "hooks": self.hooks, "notify": self.notify,
            "numbers": [number + 1 for number in numbers], "total": len(self.jobs),
        }
        results = {id(r.job): r for r in self.runner(jobs, self.session, self.output, **options)} if jobs else {}
        never = InterruptedTrialError("an earlier job of this worker was interrupted")
        return {n: _outcome(results[id(job)]) if id(job) in results else never for n, job in zip(numbers, jobs)}


def _outcome(result: JobResult) -> Judged | Exception:
    if result.status == INTERRUPTED:
        return InterruptedTrialError(f"{result.job.name}: interrupted: {result.reason}. Next: --resume goes on with it")
    if result.status == HELD:
        return HeldTrialError(f"{result.job.name}: {result.reason}")
    if result.status == FAILED:
        broken = "CUDA error" in result.reason
        return BrokenDeviceError(result.reason) if broken else ReportedError(result.reason)
    value = result.metrics.get("AP", result.validation.get("AP", 0.0))
    return Judged([float(value)], facts={RESULT: result_facts(result)})


def run_shared(
    jobs: Sequence[Job],
    session: Session,
    output: Path,
    sharing: Sharing,
    *,
    stage: str = "jobs",
    hooks: Callable[[Job], Sequence[Hook]] = lambda _: (),
    notify: Notify = print,
    runner: Callable[..., Iterable[JobResult]] = run_tidily,
) -> list[JobResult]:
    """Carry out jobs with other workers; returns when all are done, by whomever.

    A worker that dies leaves a job without a sign of life, which another one takes over from its last checkpoint (where it sees
    the same folder of runs).

    Args:
        jobs: All jobs, planned alike by every worker.
        session: Device, data and teachers of this worker.
        output: Folder of runs.
        sharing: How they are shared.
        stage: Which of several queues of one name this is.
        hooks: Listeners of a job's run.
        notify: Receives a line per phase.
        runner: What carries out some jobs.

    Raises:
        UsageError: The name is taken, or it stands for other jobs.
        InterruptedTrialError: This worker was asked to end; its jobs went back into the queue.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if session is not None and session.machine.world_size > 1:
        return _by_all_processes(jobs, session, output, sharing, hooks, notify, runner)
    queue = _enter(jobs, output, sharing, stage)
    objective = JobRunner(jobs, session, output, hooks, notify, runner)
    sampler = GridSampler([{}])
    worker = Worker(
        queue, objective, lambda _: sampler, notify, group=objective, together=sharing.together, poll=sharing.poll, noun="job",
    )
    worker.work()
    mine = set(worker.mine)
    return [_result(jobs[trial.number], trial, trial.number in mine) for trial in queue.trials()]


def _by_all_processes(
    jobs: Sequence[Job],
    session: Session,
    output: Path,
    sharing: Sharing,
    hooks: Callable[[Job], Sequence[Hook]],
    notify: Notify,
    runner: Callable[..., Iterable[JobResult]],
) -> list[JobResult]:
    """Where every run takes all processes of one launch, there is no queue: they go through the jobs in one order."""
    if sharing.join:
        raise UsageError(
            "--join: a worker that shares jobs is one process. Next: start one per GPU without torchrun, or leave --join out; "
            "then every run takes all processes"
        )
    options = {"resume": sharing.resume, "together": sharing.together, "hooks": hooks, "notify": notify}
    results = list(runner(jobs, session, output, **options))
    if len(results) < len(jobs):
        raise InterruptedTrialError("the runs were interrupted. Next: --resume goes on with them")
    order = {id(job): number for number, job in enumerate(jobs)}
    return sorted(results, key=lambda result: order[id(result.job)])


def _result(job: Job, trial: Any, mine: bool) -> JobResult:
    content = trial.user_attrs.get(RESULT)
    if trial.state is TrialState.COMPLETE and content is not None:
        return replace(result_from(job, content), reused=not mine)
    return JobResult(job, FAILED, reason=str(trial.user_attrs.get("reason", "")), reused=not mine)


def _enter(jobs: Sequence[Job], output: Path, sharing: Sharing, stage: str) -> Queue:
    """The queue, made or joined."""
    storage, name = open_storage(sharing.url(output)), f"{sharing.name} ({stage})"
    wanted = {"jobs": digest({"jobs": [[job.hash or job.name, job.seed, job.trial is None] for job in jobs]}), "size": len(jobs)}
    study = find_study(storage, name)
    if study is None:
        try:
            study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
            study.set_user_attr(KEY, wanted)
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(study_name=name, storage=storage)
            if not sharing.join:
                raise UsageError(taken(sharing.name)) from None
    elif not (sharing.join or sharing.resume):
        raise UsageError(taken(sharing.name))
    _check(_kept(study, sharing.name), wanted, sharing.name)
    queue = Queue(study, storage, len(jobs), worker_name(), sharing.beat, sharing.grace)
    if sharing.resume:
        queue.retry()
    queue.fill()
    return queue


def is_begun(output: Path, sharing: Sharing, stage: str) -> bool:
    """Whether some worker has begun this stage."""
    return find_study(open_storage(sharing.url(output)), f"{sharing.name} ({stage})") is not None


def taken(name: str) -> str:
    """The message about a name under which there is something already."""
    return (
        f'there is "{name}" already. Next: --resume goes on with it (and runs again what failed), --join lets this worker join '
        "it, --name NAME begins another"
    )


def _kept(study: optuna.Study, name: str, patience: float = 30.0) -> Mapping[str, Any]:
    """What the study's jobs are; waits a little for whoever is making it."""
    end = time.monotonic() + patience
    while KEY not in study.user_attrs:
        if time.monotonic() > end:
            raise UsageError(f'"{name}" in this storage is no sweep and no comparison; choose another --name')
        time.sleep(0.2)
    kept: Mapping[str, Any] = study.user_attrs[KEY]
    return kept


def _check(was: Mapping[str, Any], wanted: Mapping[str, Any], name: str) -> None:
    if dict(was) == dict(wanted):
        return
    many = "" if was.get("size") == wanted["size"] else f" ({was.get('size')} jobs, here {wanted['size']})"
    raise UsageError(
        f'"{name}" stands for other jobs{many}: methods, bench, data, code, seeds, device or number of threads are not the same '
        "here. Next: --name NAME for another one, or make this worker like those"
    )


def once(
    task: str, work: Callable[[], Mapping[str, Any]], output: Path, sharing: Sharing, notify: Notify = print
) -> Mapping[str, Any]:
    """Plain data that one of the workers makes and keeps for the others; empty where it failed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage, name = open_storage(sharing.url(output)), f"{sharing.name} ({task})"
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    queue = Queue(study, storage, 1, worker_name(), sharing.beat, sharing.grace)
    queue.fill()
    sampler = GridSampler([{}])

    def make(_: optuna.Trial) -> Judged:
        return Judged([0.0], facts={RESULT: dict(work())})

    Worker(queue, make, lambda _: sampler, lambda _: None, poll=sharing.poll).work()
    (trial,) = queue.trials()
    kept = trial.user_attrs.get(RESULT)
    if kept is None:
        notify(f"{task}: {trial.user_attrs.get('reason', 'unknown')}")
    return dict(kept or {})
