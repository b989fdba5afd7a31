"""Many runs in one go: what they are, what is done of them, and what came out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kdflow.errors import KdflowError
from kdflow.events import Hook
from kdflow.experiment.reading import read_method
from kdflow.experiment.request import Notify, RunRequest, TrialOf, with_length
from kdflow.experiment.result import RESULT, RunResult
from kdflow.experiment.run import run
from kdflow.experiment.session import Preview, Session
from kdflow.experiment.setup import prepare
from kdflow.experiment.shelf import Shelf
from kdflow.experiment.together import run_together
from kdflow.files import read_json, write_json
from kdflow.spec.resolve import MethodSpec
from kdflow.tracking.lock import HeldError

FINISHED, FAILED, INTERRUPTED, HELD = "finished", "failed", "interrupted", "held"


@dataclass(frozen=True)
class Job:
    """One run of a sweep, compiled but not run.

    Attributes:
        spec: As the user named it.
        bench: As the user named it; None takes the method's own.
        seed: Seed.
        overrides: What this job sets, the sweep's common settings included.
        shown: The overrides that tell this job from others.
        label: Words for a table (the part that an ablation leaves out).
        hash: Of the resolved run; empty when it does not compile.
        method: Slug.
        bench_name: Name of the bench.
        steps: Length; None where the recipe says epochs and the data are not open.
        images: Images that it trains on, steps times batch.
        problem: Why it cannot run; empty when it compiles.
        stream: Hash of what decides its batches; jobs of one stream may train together.
        trial: It is a trial of a search: judged on the validation split, neither measured on test nor exported.
    """

    spec: str
    bench: str | None
    seed: int
    overrides: Mapping[str, Any]
    shown: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    hash: str = ""
    method: str = ""
    bench_name: str = ""
    steps: int | None = None
    images: int | None = None
    problem: str = ""
    stream: str = ""
    trial: TrialOf | None = None

    @property
    def name(self) -> str:
        """The job in words."""
        words = [self.method or self.spec, self.bench_name or self.bench or "", f"seed {self.seed}"]
        extra = self.label or ", ".join(f"{path}={value}" for path, value in self.shown.items())
        return ", ".join(word for word in [*words, extra] if word)


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    Attributes:
        job: The job.
        status: ``finished``, ``failed`` or ``interrupted``.
        metrics: On the test split, in percent.
        reason: Why it did not finish.
        reused: It was finished before, and not run again.
        folder: Its files.
        validation: Metrics on the validation split, in percent.
        seen: What it learned from; see :class:`RunResult`.
        added_parameters: Weights that the exported student does not have.
        teachers: Teacher -> its own metrics on the test split, in percent.
    """

    job: Job
    status: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    reused: bool = False
    folder: str = ""
    validation: Mapping[str, float] = field(default_factory=dict)
    seen: Mapping[str, Any] = field(default_factory=dict)
    added_parameters: int = 0
    teachers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def grid(pairs: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values, the last path varying fastest; one empty combination without any path."""
    return [dict(zip(pairs, point, strict=True)) for point in itertools.product(*pairs.values())]


def plan_jobs(
    specs: Iterable[str],
    benches: Sequence[str | None],
    seeds: Iterable[int],
    values: Mapping[str, Sequence[Any]],
    *,
    points: Sequence[Mapping[str, Any]] | None = None,
    steps: int | None = None,
    session: Session | Preview | None = None,
) -> list[Job]:
    """All combinations, each compiled once for all of its seeds; equal runs are listed once.

    Args:
        specs: Methods.
        benches: Benches; ``[None]`` takes each method's own.
        seeds: Seeds.
        values: Dotted path -> values to go through.
        points: The combinations of values, where they are not all of them.
        steps: Length of every run, in place of the recipe's.
        session: What the runs will be carried out in, or a preview of it; none previews one that chooses its device.
    """
    chosen = grid(values) if points is None else list(points)
    several = {path for point in chosen for path in point if any(other.get(path) != point[path] for other in chosen)}
    seeds, found, shelf = list(seeds), [], Shelf()
    looks = session or Preview()
    for spec, bench, point in itertools.product(specs, benches, chosen):
        shown = {path: value for path, value in point.items() if path in several}
        job = Job(spec, bench, 0, with_length(point, steps), shown)
        found += checked_jobs(job, seeds, looks, shelf)
    return list({job.hash or job.name: job for job in found}.values())


def checked_jobs(
    job: Job, seeds: Sequence[int], session: Session | Preview, shelf: Shelf, spec: MethodSpec | None = None
) -> list[Job]:
    """The job with each seed, with hash and cost, or with the problem that keeps it from running; it is compiled once.

    Nothing that can be wrong with a run depends on its seed.
    """
    try:
        method = spec or read_method(job.spec)
        setting = prepare(method, job.bench, overrides=job.overrides, shelf=shelf)
        recipe, steps = setting.bench.recipe, session.steps(setting)
        first = session.identify(setting)
    except KdflowError as error:
        return [replace(job, seed=seed, problem=str(error)) for seed in seeds]
    images = steps * recipe.batch * recipe.accumulate if steps else None
    checked = replace(
        job, method=setting.method.method, bench_name=setting.bench.bench, steps=steps, images=images,
    )
    known = [(seed, first.with_seed(seed)) for seed in seeds]
    return [replace(checked, seed=seed, hash=identity.run, stream=identity.stream) for seed, identity in known]


def record_of(job: Job, output: Path) -> JobResult | None:
    """What is known of a job from before; None when it never ended, or its files are gone or cannot be read."""
    content = read_json(_record_file(job, output)) if job.hash else None
    forms = {"status": str, "metrics": dict, "reason": str, "folder": str}
    if not isinstance(content, dict) or not all(isinstance(content.get(key), form) for key, form in forms.items()):
        return None
    result = result_from(job, content, reused=True)
    gone = result.status == FINISHED and read_json(Path(result.folder) / RESULT) is None
    return None if gone else result


def _record_file(job: Job, output: Path) -> Path:
    """Where it is kept; a trial, which is not measured on test, beside the run of the same hash."""
    return output / "sweeps" / f"{job.hash}{'' if job.trial is None else '-trial'}.json"


def result_from(job: Job, content: Mapping[str, Any], reused: bool = False) -> JobResult:
    """What :func:`result_facts` wrote down, by this version or an older one."""
    return JobResult(
        job, content["status"], content["metrics"], content["reason"], reused, content["folder"],
        content.get("validation", {}), content.get("seen", {}), content.get("added_parameters", 0),
        content.get("teachers", {}),
    )


def result_facts(result: JobResult) -> dict[str, Any]:
    """A result as plain data, without its job."""
    return {key: value for key, value in asdict(result).items() if key not in ("job", "reused")}


def run_jobs(
    jobs: Sequence[Job],
    session: Session,
    output: Path,
    *,
    resume: bool = False,
    together: int = 1,
    hooks: Callable[[Job], Sequence[Hook]] = lambda _: (),
    notify: Notify = print,
    numbers: Sequence[int] | None = None,
    total: int | None = None,
    runner: Callable[..., RunResult] = run,
    group_runner: Callable[..., list[RunResult]] = run_together,
) -> Iterator[JobResult]:
    """Run jobs one after the other, or some at a time; whatever fails is recorded, and the next one begins.

    Args:
        jobs: As planned.
        session: Device, data and teachers for all of them.
        output: Folder of runs; what became of each job is kept below ``sweeps``.
        resume: Jobs that are finished are not run again, and interrupted ones go on from their checkpoint.
        together: Up to so many jobs that see the same batches are trained side by side; fewer where memory does not suffice.
        hooks: Listeners of a job's run.
        notify: Receives a line per phase.
        numbers: Which jobs they are, from 1 on, where they are a part of more.
        total: How many there are in all; with ``numbers``.
        runner: What carries out a run.
        group_runner: What carries out several side by side.
    """
    counted = zip(numbers or range(1, len(jobs) + 1), jobs, strict=True)
    place = {id(job): f"[{number}/{total or len(jobs)}] {job.name}" for number, job in counted}
    known = {id(job): record_of(job, output) if resume else None for job in jobs}
    settings = {"output": output, "resume": resume, "notify": notify, "session": session}
    for group in groups(jobs, together, lambda job: not job.problem and not _finished(known[id(job)])):
        if (result := known[id(group[0])]) is not None and _finished(result):
            notify(f"{place[id(group[0])]}: finished before")
            yield result
            continue
        for job in group:
            notify(place[id(job)])
        results = _side_by_side(group, hooks, settings, group_runner, runner)
        for result in results:
            _keep(result, output, notify)
            yield result
        if any(result.status == INTERRUPTED for result in results):
            return  # whoever stopped this run did not ask for the next one


def groups(jobs: Sequence[Job], size: int, fits: Callable[[Job], bool]) -> list[list[Job]]:
    """Jobs of one stream of batches, up to ``size`` at a time, in the order of the first of each; others stand alone."""
    found: list[list[Job]] = []
    for job in jobs:
        mates = [g for g in found if len(g) < size and g[0].stream == job.stream and fits(g[0]) and fits(job)]
        if mates:
            mates[0].append(job)
        else:
            found.append([job])
    return found


def _finished(result: JobResult | None) -> bool:
    return result is not None and result.status == FINISHED


def _keep(result: JobResult, output: Path, notify: Notify) -> None:
    """Write down what became of a job, and say what went wrong."""
    job = result.job
    if job.hash and result.status != HELD:
        write_json(_record_file(job, output), {**asdict(result), "job": asdict(job)})
    if result.status != FINISHED:
        notify(f"{job.name}: {result.status}: {result.reason}")


def _side_by_side(
    group: Sequence[Job],
    hooks: Callable[[Job], Sequence[Hook]],
    settings: Mapping[str, Any],
    group_runner: Callable[..., list[RunResult]],
    runner: Callable[..., RunResult],
) -> list[JobResult]:
    """One job, or several together; a group that does not fit in memory, or has a run that is under way elsewhere, is halved."""
    if len(group) == 1:
        return [_one(group[0], hooks(group[0]), settings, runner)]
    requests = [
        RunRequest(job.spec, job.bench, job.seed, overrides=job.overrides, hooks=hooks(job), trial=job.trial) for job in group
    ]
    try:
        return [_result(job, done) for job, done in zip(group, group_runner(requests, **settings), strict=True)]
    except HeldError:
        why = f"one of {len(group)} runs is under way in another process"
    except Exception as error:
        if "out of memory" not in str(error).lower():
            return [JobResult(job, FAILED, reason=_words(error)) for job in group]
        why = f"{len(group)} students together do not fit in memory"
    settings["notify"](f"{why}; they go on in two halves")
    middle = len(group) // 2
    halves = (group[:middle], group[middle:])
    return [result for half in halves for result in _side_by_side(half, hooks, settings, group_runner, runner)]


def _one(
    job: Job, hooks: Sequence[Hook], settings: Mapping[str, Any], runner: Callable[..., RunResult]
) -> JobResult:
    if job.problem:
        return JobResult(job, FAILED, reason=job.problem)
    try:
        done = runner(
            job.spec, bench=job.bench, seed=job.seed, overrides=job.overrides, hooks=hooks, trial=job.trial, **settings,
        )
    except HeldError as error:
        return JobResult(job, HELD, reason=str(error))
    except Exception as error:
        return JobResult(job, FAILED, reason=_words(error))
    return _result(job, done)


def _result(job: Job, done: RunResult) -> JobResult:
    status = done.status if done.status in (FINISHED, INTERRUPTED) else FAILED
    return JobResult(
        job, status, dict(done.metrics), done.reason, False, done.folder, dict(done.validation), dict(done.seen),
        done.added_parameters, {owner: dict(facts["metrics"]) for owner, facts in done.teachers.items()},
    )


def _words(error: Exception) -> str:
    words = str(error).strip() or type(error).__name__
    return words if isinstance(error, KdflowError) else f"{type(error).__name__}: {words}"


@dataclass(frozen=True)
class Row:
    """Repetitions of one setting.

    Attributes:
        method: Slug or name of the spec.
        bench: Name of the bench.
        setting: What is set, in words.
        finished: Runs that count.
        failed: Runs that failed or were interrupted.
        mean: Metric -> mean.
        spread: Metric -> standard deviation over seeds, for two and more.
    """

    method: str
    bench: str
    setting: str
    finished: int
    failed: int
    mean: Mapping[str, float]
    spread: Mapping[str, float]


def summary(results: Iterable[JobResult]) -> list[Row]:
    """Results without their seeds, in the order of the jobs."""
    groups: dict[tuple[str, str, str], list[JobResult]] = {}
    for result in results:
        job = result.job
        words = job.label or ", ".join(f"{path}={value}" for path, value in job.shown.items())
        groups.setdefault((job.method or job.spec, job.bench_name or str(job.bench or ""), words), []).append(result)
    return [_row(key, group) for key, group in groups.items()]


def _row(key: tuple[str, str, str], group: Sequence[JobResult]) -> Row:
    good = [result.metrics for result in group if result.status == FINISHED]
    names = [name for name in (good[0] if good else {}) if all(name in metrics for metrics in good)]
    mean = {name: sum(m[name] for m in good) / len(good) for name in names}
    spread = {
        name: math.sqrt(sum((m[name] - mean[name]) ** 2 for m in good) / (len(good) - 1)) for name in names if len(good) > 1
    }
    return Row(*key, len(good), len(group) - len(good), mean, spread)
