"""``kdflow sweep``: methods x benches x values x seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdflow.cli.console import columns, note, say, say_json
from kdflow.cli.options import JsonOption, Output, Specs
from kdflow.errors import UsageError
from kdflow.folders import runs_folder

if TYPE_CHECKING:
    from kdflow.experiment.session import Preview, Session
    from kdflow.experiment.sweep import Job, JobResult

Seeds = Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ... per setting.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=A,B,C", help="Values to go through; several such options make a grid. Repeatable."),
]
Benches = Annotated[list[str] | None, typer.Option("--bench", metavar="BENCH", help="Repeatable; without it each spec's own.")]
Resume = Annotated[bool, typer.Option("--resume", help="Run exactly what is missing or failed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the jobs with what is known of them; run nothing.")]
Together = Annotated[int, typer.Option(min=1, metavar="K", help="Train up to K jobs of one bench and seed side by side.")]
Join = Annotated[
    bool, typer.Option("--join", help="Share the jobs with other workers: the same command wherever --storage is reached.")
]
Storage = Annotated[
    str | None, typer.Option(metavar="URL", help="Database of --join, such as sqlite:///x.db; without it search.db in --output.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Length of every run; without it the recipe's.")]


def sweep(
    specs: Specs,
    seeds: Seeds = 1,
    bench: Benches = None,
    sets: Sets = None,
    steps: Steps = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; CUDA_VISIBLE_DEVICES chooses among GPUs.")] = "auto",
    output: Output = None,
    dry_run: DryRun = False,
    resume: Resume = False,
    together: Together = 1,
    join: Join = False,
    storage: Storage = None,
    json: JsonOption = False,
) -> None:
    """Run every combination of methods, benches, values and seeds.

    With --together 4, up to four jobs of one bench and seed are trained side by side on one pass of the teacher; the results
    are the same. With --join, workers that are started with the same command share the jobs. A job is known by the hash of its
    resolved run. A job that fails is recorded and does not stop the others; the exit code is 1 when one did.
    """
    from kdflow.experiment.nesting import nested
    from kdflow.experiment.session import Preview, open_session
    from kdflow.tracking.store import require_store

    plan, place = planner(specs, bench, seeds, values_of(sets), steps), runs_folder(output)
    if dry_run:
        show_jobs(plan(Preview(device)), place, json)
        return
    require_store(place)
    with open_session(device) as session:
        jobs = plan(session)
        done = carry_out(jobs, session, place, "sweep", resume, together, join, storage)
        results = list(nested(jobs, done, place))
    if json:
        say_json([result_json(result) for result in results])
    else:
        say(table(results))
    end(jobs, results)


def planner(
    specs: Sequence[str], benches: Sequence[str] | None, seeds: int, values: dict[str, list[Any]], steps: int | None
) -> Callable[[Session | Preview], list[Job]]:
    """What plans the jobs: of the command line, or of the file with ``sweep:`` that is its only SPEC.

    Raises:
        SpecError, UsageError: The file is wrong, or the command line says again what the file says.
    """
    from kdflow.experiment.sweep import plan_jobs
    from kdflow.experiment.sweep_file import read_sweep

    path = Path(specs[0])
    found = read_sweep(path) if len(specs) == 1 and path.is_file() else None
    if found is None:
        return lambda session: plan_jobs(specs, benches or [None], range(seeds), values, steps=steps, session=session)
    if benches or seeds != 1 or values:
        raise UsageError(f"{path} says itself what is swept; leave --bench, --seeds and --set out, or change the file")
    return lambda session: plan_jobs(
        found.methods, found.benches or [None], found.seeds, {}, points=found.all_points(), steps=steps or found.steps,
        session=session,
    )


def values_of(pairs: Sequence[str] | None) -> dict[str, list[Any]]:
    """``PATH=a,b,[c, d]`` as path -> values; raises UsageError for other text."""
    from kdflow.errors import SpecError
    from kdflow.spec.load import parse

    values: dict[str, list[Any]] = {}
    for pair in pairs or ():
        path, equals, text = pair.partition("=")
        if not equals or not path.strip() or not text.strip():
            raise UsageError(f"--set {pair}: write PATH=VALUE or PATH=A,B,C, for example terms.neck.weight=1,2,4")
        try:
            values[path.strip()] = parse(f"value: [{text}]", "--set").data["value"]
        except SpecError as error:
            raise UsageError(f"--set {pair}: {error.faults[0].problem}") from None
    return values


def carry_out(
    jobs: Sequence[Job], session: Session, output: Path, kind: str, resume: bool, together: int, join: bool, storage: str | None
) -> Iterable[JobResult]:
    """Run the jobs here, or with all workers that share them."""
    from kdflow.experiment.hashes import digest
    from kdflow.experiment.sweep import run_jobs
    from kdflow.search.jobs import Sharing, run_shared

    if not join:
        if storage:
            raise UsageError("--storage is where workers share jobs; give --join too, or leave it out")
        return run_jobs(jobs, session, output, resume=resume, together=together, hooks=listeners(), notify=note)
    name = f"{kind}-{digest({'jobs': [job.hash or job.name for job in jobs]})[:8]}"
    sharing = Sharing(name, storage, resume, join, together)
    return run_shared(jobs, session, output, sharing, hooks=listeners(), notify=note)


def listeners() -> Callable[[Job], tuple[Any, ...]]:
    """Progress of each job; those that go on at once share the screen."""
    from kdflow.cli.progress import Bars, ProgressHook

    bars = Bars()
    return lambda job: (ProgressHook(job.name, bars=bars),)


def show_jobs(jobs: Sequence[Job], output: Path, json: bool) -> None:
    """The jobs with compile status, cost, hash, and what became of them before."""
    from kdflow.experiment.sweep import record_of

    known = {job.hash: record.status for job in jobs if (record := record_of(job, output)) is not None}
    if json:
        say_json([{**vars(job), "status": known.get(job.hash, "missing")} for job in jobs])
        return
    rows = [
        (
            job.hash or "-", "faulty" if job.problem else known.get(job.hash, "missing"), str(job.steps or "?"),
            str(job.images or "?"), job.name,
        )
        for job in jobs
    ]
    say(columns(rows, head=("hash", "status", "steps", "images", "job")))
    total = sum(job.images or 0 for job in jobs)
    say(f"{len(jobs)} jobs, {sum(bool(job.problem) for job in jobs)} faulty, {total} training images")
    for job in jobs:
        if job.problem:
            note(f"{job.name}:\n{job.problem}")
    if any(job.problem for job in jobs):
        raise typer.Exit(1)


def table(results: Sequence[JobResult]) -> str:
    """Means over seeds, one line per setting, and what failed."""
    from kdflow.experiment.sweep import summary

    metrics = ("AP", "AP50", "voc_ap50")
    lines = []
    for row in summary(results):
        cells = [_cell(row.mean.get(m), row.spread.get(m)) for m in metrics]
        lines.append((row.method, row.bench, str(row.finished), str(row.failed), *cells, row.setting))
    text = [columns(lines, head=("method", "bench", "runs", "failed", *metrics, "setting"))]
    text += [f"{r.job.name}: {r.status}: {r.reason}" for r in results if r.status != "finished"]
    return "\n".join(text)


def _cell(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.2f}" if spread is None else f"{mean:.2f} ± {spread:.2f}"


def result_json(result: JobResult) -> dict[str, Any]:
    """Plain data."""
    return {**vars(result), "job": vars(result.job)}


def end(jobs: Sequence[Job], results: Sequence[JobResult]) -> None:
    """Exit code 1 unless every job is finished."""
    left = len(jobs) - len(results)
    if left:
        note(f"{left} jobs were not begun; --resume runs them")
    if left or any(result.status != "finished" for result in results):
        raise typer.Exit(1)
