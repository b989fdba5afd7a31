"""A comparison from beginning to end: tune, measure, weigh, judge, write down. Every worker does, and ends with, the same."""

from __future__ import annotations

import importlib.metadata
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdflow.compare.content import Comparison, CostRow, EntryRow, File, RunRow, Settings, TrialRow, content_hash
from kdflow.compare.cost import costs_of, machine_facts
from kdflow.compare.design import design, plain_values
from kdflow.compare.entries import CONTROLS, TUNING_SEED, Entrant, Lineup, Protocol, lineup_of
from kdflow.compare.judge import audit_of, best_trial, verdicts_of
from kdflow.events import Hook
from kdflow.experiment.filled import hidden
from kdflow.experiment.nesting import nested
from kdflow.experiment.reading import read_method
from kdflow.experiment.request import TrialOf
from kdflow.experiment.session import Preview, Session, open_session
from kdflow.experiment.setup import prepare
from kdflow.experiment.shelf import Shelf
from kdflow.experiment.sweep import FINISHED, Job, JobResult, checked_jobs
from kdflow.files import write_json
from kdflow.folders import runs_folder, slug
from kdflow.ports import DETECTORS
from kdflow.search.jobs import Sharing, is_begun, once, run_shared, run_tidily
from kdflow.tracking.mlflow import parent_run
from kdflow.tracking.store import require_store

FOLDER = "comparisons"
PACKAGES = ("torch", "torchvision", "timm", "transformers")
Notify = Callable[[str], None]
Runner = Callable[..., Iterable[JobResult]]
Hooks = Callable[[Job], Sequence[Hook]]
Costs = Callable[[Sequence[Entrant], Mapping[str, Mapping[str, Any]], Protocol, Session, Notify], dict[str, CostRow]]


@dataclass(frozen=True)
class Execution:
    """How a comparison is carried out; what it is, is its protocol.

    Attributes:
        name: Name; none is made of the bench and a hash of the protocol, methods, data and code.
        storage: Database that workers share; by default ``search.db`` in the folder of runs.
        resume: Go on with what was begun before, failed runs included.
        join: Begin it, or join whoever has begun it.
        together: Up to so many runs that see the same batches are trained side by side.
        device: ``auto``, ``cpu`` or ``cuda``.
        output: Folder of runs.
        file: Where the result goes; by default ``comparisons/NAME.json`` in the folder of runs.
        beat: Seconds between signs of life of a running job.
        grace: Seconds without one after which a job goes to another worker.
        poll: Seconds between two looks at a queue in which nothing waits.
    """

    name: str | None = None
    storage: str | None = None
    resume: bool = False
    join: bool = False
    together: int = 1
    device: str = "auto"
    output: str | Path | None = None
    file: Path | None = None
    beat: float = 10.0
    grace: float = 60.0
    poll: float = 2.0

    def sharing(self, name: str) -> Sharing:
        """How the workers share its jobs."""
        return Sharing(name, self.storage, self.resume, self.join, self.together, self.beat, self.grace, self.poll)


@dataclass(frozen=True)
class Tuned:
    """What tuning brought.

    Attributes:
        trials: Entrant -> its trials.
        chosen: Entrant -> number of the best one; absent where all failed.
        values: Entrant -> values of its measured runs; absent where there are none.
    """

    trials: Mapping[str, tuple[TrialRow, ...]] = field(default_factory=dict)
    chosen: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def compare(
    protocol: Protocol,
    request: Execution,
    notify: Notify = print,
    hooks: Hooks = lambda _: (),
    *,
    runner: Runner = run_tidily,
    costs: Costs = costs_of,
) -> tuple[File, Path]:
    """Compare methods; gives what was found, and the file that says so.

    Args:
        protocol: What is compared.
        request: How it is carried out.
        notify: Receives a line per phase.
        hooks: Listeners of a job's run.
        runner: Carries out some jobs.
        costs: Measures the cost of a step.

    Raises:
        SpecError, UsageError: Mistakes, before anything is run.
        KeyboardInterrupt: Everything that is finished is kept; ``resume`` goes on.
    """
    output = runs_folder(request.output)
    require_store(output)
    with open_session(request.device) as session:
        lineup = lineup_of(protocol, session)
        name = request.name or name_of(lineup, protocol)
        for left, reason in lineup.left_out.items():
            notify(f"{left}: left out: {reason}")
        sharing = request.sharing(name)
        parent = parent_run(lineup.bench.bench, name, "comparison", output) if session.machine.is_first else ""
        work = _Work(protocol, lineup, session, output, sharing, parent, notify, hooks, runner)
        tuned = work.tune()
        results = work.measure(tuned)
        rows = tuple(work.rows(tuned, results))
        comparison = conclude(protocol, lineup, rows)
        cost = work.weigh(tuned, costs)
    file = File(content=content_hash(comparison), comparison=comparison, **cost)
    place = request.file or output / FOLDER / f"{slug(name)}.json"
    if session.machine.is_first:
        write_json(place, file.model_dump(mode="json"))
    return file, place


def name_of(found: Lineup, protocol: Protocol) -> str:
    """The name that the same command gives on every machine."""
    return slug(f"compare-{found.bench.bench}-{found.digest(protocol)[:8]}")


@dataclass
class _Work:
    """What one worker does, stage by stage."""

    protocol: Protocol
    lineup: Lineup
    session: Session
    output: Path
    sharing: Sharing
    parent: str
    notify: Notify
    hooks: Hooks
    runner: Runner

    def tune(self) -> Tuned:
        """Try every entry's values on the tuning seeds, and choose the best on validation."""
        jobs = tuning_jobs(self.protocol, self.lineup, self.session, self.sharing.name, self.parent)
        sharing = self.sharing
        if sharing.resume and is_begun(self.output, sharing, "runs"):  # what was chosen stays chosen
            sharing = replace(sharing, resume=False, join=True)
        results = self._carry_out(jobs, "tuning", sharing) if jobs else []
        return tuned_from(self.protocol, self.lineup, results)

    def measure(self, tuned: Tuned) -> list[JobResult]:
        """Run every entry with its values on the measured seeds."""
        jobs = measured_jobs(self.protocol, self.lineup, tuned, self.session)
        return list(nested(jobs, self._carry_out(jobs, "runs", self.sharing), self.output, "comparison", self.sharing.name))

    def weigh(self, tuned: Tuned, costs: Costs) -> dict[str, Any]:
        """Cost of a step of every entry, measured by one worker for all."""

        def work() -> dict[str, Any]:
            found = costs(self.lineup.entries, tuned.values, self.protocol, self.session, self.notify)
            rows = {name: row.model_dump(mode="json") for name, row in found.items()}
            return {"costs": rows, "measured_on": machine_facts(self.session)}

        if self.session.machine.world_size > 1:
            return work()
        return dict(once("costs", work, self.output, self.sharing, self.notify))

    def rows(self, tuned: Tuned, results: Sequence[JobResult]) -> Iterator[EntryRow]:
        """Entries with everything that is known of them."""
        shelf = Shelf()
        for entry in self.lineup.entries:
            own = [result for result in results if result.job.label == entry.name]
            yield EntryRow(
                name=entry.name, kind=entry.kind, method=entry.method, title=entry.title, nodes=entry.nodes, note=entry.note,
                follows=entry.follows, space=entry.space.as_json(), declared=plain_values(entry.space.declared),
                trials=tuned.trials.get(entry.name, ()), chosen=tuned.chosen.get(entry.name),
                values=plain_values(tuned.values.get(entry.name, {})),
                made_of=self._made_of(entry, tuned, shelf), added_parameters=max([0, *(r.added_parameters for r in own)]),
                runs=tuple(run_row(result) for result in sorted(own, key=lambda r: r.job.seed)),
            )

    def _made_of(self, entry: Entrant, tuned: Tuned, shelf: Shelf) -> dict[str, Any]:
        if entry.name not in tuned.values:
            return {}
        changes = {**self.protocol.common, **entry.overrides, **tuned.values[entry.name]}
        setting = prepare(read_method(entry.spec), self.protocol.bench, overrides=changes, shelf=shelf)
        parts = hidden(self.session.identify(setting).parts)
        return {key: value for key, value in parts.items() if key != "seed"}

    def _carry_out(self, jobs: Sequence[Job], stage: str, sharing: Sharing) -> list[JobResult]:
        return run_shared(
            jobs, self.session, self.output, sharing, stage=stage, hooks=self.hooks, notify=self.notify, runner=self.runner,
        )


def tuning_jobs(
    protocol: Protocol, found: Lineup, session: Session | Preview, name: str = "comparison", parent: str = ""
) -> list[Job]:
    """Every trial of every entry on every tuning seed; those of one seed, which see the same batches, follow each other."""
    shelf, jobs = Shelf(), list[Job]()
    tuned = [entry for entry in found.entries if entry.space.ranges]
    plans = [(entry, number, values) for entry in tuned for number, values in enumerate(design(entry.space, protocol.budget))]
    seeds = range(TUNING_SEED, TUNING_SEED + protocol.tuning_seeds)
    for entry, number, values in plans:
        changes = {**protocol.common, **entry.overrides, **values}
        job = Job(entry.spec, protocol.bench, 0, changes, {"entry": entry.name, "trial": number}, f"{entry.name}, trial {number}")
        jobs += checked_jobs(job, seeds, session, shelf)
    jobs.sort(key=lambda job: job.seed)
    return [replace(job, trial=TrialOf(name, number, parent)) for number, job in enumerate(jobs)]


def measured_jobs(protocol: Protocol, found: Lineup, tuned: Tuned, session: Session | Preview) -> list[Job]:
    """Every entry that has values on every measured seed."""
    shelf, jobs = Shelf(), list[Job]()
    for entry in found.entries:
        if entry.name in tuned.values:
            changes = {**protocol.common, **entry.overrides, **tuned.values[entry.name]}
            job = Job(entry.spec, protocol.bench, 0, changes, label=entry.name)
            jobs += checked_jobs(job, range(protocol.seeds), session, shelf)
    return sorted(jobs, key=lambda job: job.seed)


def tuned_from(protocol: Protocol, found: Lineup, results: Sequence[JobResult]) -> Tuned:
    """The trials, and the values that they chose."""
    seeds = range(TUNING_SEED, TUNING_SEED + protocol.tuning_seeds)
    trials: dict[str, tuple[TrialRow, ...]] = {}
    chosen: dict[str, int] = {}
    values: dict[str, Mapping[str, Any]] = {}
    for entry in found.entries:
        if not entry.space.ranges:
            continue
        points = design(entry.space, protocol.budget)
        own = [result for result in results if result.job.shown["entry"] == entry.name]
        trials[entry.name] = tuple(_trial(number, point, own, protocol.metric) for number, point in enumerate(points))
        if (best := best_trial(trials[entry.name], seeds)) is not None:
            chosen[entry.name], values[entry.name] = best, points[best]
    for entry in found.entries:
        source = entry.follows or entry.name
        if entry.name not in values and (source in values or source not in trials):
            values[entry.name] = values.get(source, {})
    return Tuned(trials, chosen, values)


def _trial(number: int, point: Mapping[str, Any], results: Sequence[JobResult], metric: str) -> TrialRow:
    own = [result for result in results if result.job.shown["trial"] == number]
    good = {r.job.seed: r.validation[metric] for r in own if r.status == FINISHED and metric in r.validation}
    bad = {r.job.seed: r.reason or f"no {metric}" for r in own if r.job.seed not in good}
    return TrialRow(number=number, values=plain_values(point), validation=good, failures=bad)


def run_row(result: JobResult) -> RunRow:
    """A measured run as the file keeps it."""
    failure = "" if result.status == FINISHED else result.reason or result.status
    return RunRow(
        seed=result.job.seed, hash=result.job.hash, metrics=dict(result.metrics), validation=dict(result.validation),
        failure=failure, seen=dict(result.seen), teachers={owner: dict(known) for owner, known in result.teachers.items()},
    )


def conclude(protocol: Protocol, found: Lineup, rows: tuple[EntryRow, ...]) -> Comparison:
    """Everything that follows from the runs."""
    bench = found.bench
    seeds = tuple(range(TUNING_SEED, TUNING_SEED + protocol.tuning_seeds))
    settings = Settings(
        command=command_of(protocol), seeds=tuple(range(protocol.seeds)), tuning_seeds=seeds, budget=protocol.budget,
        metric=protocol.metric, against=protocol.against, controls=protocol.controls, overrides=hidden(protocol.common),
    )
    return Comparison(
        bench=bench.bench, bench_hash=found.bench_hash, title=bench.title, student=bench.student.detector,
        family=DETECTORS.get(bench.student.detector).family_of(bench.student.options),
        teacher=", ".join(spec.detector for spec in bench.all_teachers.values()), dataset=bench.data.format,
        floor=bench.floor.AP50 if bench.floor else None, versions=versions(), settings=settings, entries=rows,
        left_out=dict(found.left_out), audit=audit_of(rows), verdicts=verdicts_of(rows, protocol.metric, protocol.against),
    )


def versions() -> dict[str, str]:
    """What the numbers depend on beside kdflow's own code, which the runs' hashes hold."""
    from kdflow import __version__

    return {"kdflow": __version__, **{name: importlib.metadata.version(name) for name in PACKAGES}}


def command_of(protocol: Protocol) -> str:
    """The command line that repeats a comparison; files are named as they were given."""
    words = ["kdflow", "compare", *protocol.methods, "--bench", protocol.bench, "--seeds", str(protocol.seeds)]
    words += ["--budget", str(protocol.budget), "--tuning-seeds", str(protocol.tuning_seeds), "--metric", protocol.metric]
    words += [word for name in protocol.against for word in ("--against", name)]
    if protocol.controls != CONTROLS:
        words += [word for name in protocol.controls or ("none",) for word in ("--control", name)]
    words += [word for path, value in protocol.overrides.items() for word in ("--set", f"{path}={value}")]
    if protocol.steps is not None:
        words += ["--steps", str(protocol.steps)]
    return shlex.join(map(str, hidden(words)))
