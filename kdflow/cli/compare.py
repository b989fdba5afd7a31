"""``kdflow compare``: methods under one protocol, with a verdict that can be "no"."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdflow.cli.ablate import METRICS
from kdflow.cli.console import note, say, say_json
from kdflow.cli.options import JsonOption, Output, SetOption, overrides_of
from kdflow.cli.sweep import DryRun, Resume, Steps, Storage, Together, listeners, show_jobs
from kdflow.cli.verdicts import report
from kdflow.errors import UsageError, choices
from kdflow.folders import runs_folder

if TYPE_CHECKING:
    from kdflow.compare.entries import Protocol
    from kdflow.compare.work import Execution

NO_CONTROLS = "none"
Methods = Annotated[
    list[str] | None, typer.Argument(metavar="METHOD...", help="Method files or names; all: every one that fits the bench.")
]
Against = Annotated[
    list[str] | None, typer.Option(metavar="METHOD", help="Compare with this method too, beside the plain student.")
]
Control = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="longer training, ema, label smoothing, random teacher; without it all that fit, none: no control. Repeatable.",
    ),
]
Verify = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Check a result without running anything: all that follows must follow.")
]
Page = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Make index.html of the results in a folder, in that folder.")]


def compare(
    methods: Methods = None,
    bench: Annotated[str | None, typer.Option("--bench", metavar="BENCH", help="Bench file or name.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ... that every entry is measured on.")] = 3,
    budget: Annotated[
        int, typer.Option(min=1, metavar="N", help="Trials of each entry's tuning, the plain student's too; 1 tunes nothing.")
    ] = 8,
    tuning_seeds: Annotated[int, typer.Option(min=1, help="Seeds of every trial; none of them is measured.")] = 1,
    metric: Annotated[str, typer.Option(help="What is compared, on the test split; tuned by it on the validation split.")] = "AP",
    against: Against = None,
    control: Control = None,
    sets: SetOption = None,
    steps: Steps = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; CUDA_VISIBLE_DEVICES chooses among GPUs.")] = "auto",
    output: Output = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name; without it made of the bench and of all that is compared.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The result; without it comparisons/NAME.json in --output.")
    ] = None,
    dry_run: DryRun = False,
    resume: Resume = False,
    join: Annotated[
        bool, typer.Option("--join", help="Begin the comparison or join its workers: the same command on every machine.")
    ] = False,
    storage: Storage = None,
    together: Together = 1,
    verify: Verify = None,
    page: Page = None,
    json: JsonOption = False,
) -> None:
    """Compare methods: same teacher, data, first weights and images, the same number of trials to tune each, and paired seeds.

    The plain student is tuned like every method, and controls that need no teacher's knowledge take part. Each entry is better or
    worse than the plain student, or it is undecided: by the interval of the paired difference, corrected for the number of
    methods (Holm). The result is one file that --verify checks and --page shows.
    """
    from kdflow.compare.entries import CONTROLS, Protocol

    if verify is not None or page is not None:
        _without_runs(verify, page, bool(methods), json)
        return
    if not methods or bench is None:
        raise UsageError("name what is compared: kdflow compare METHOD... --bench BENCH, or --verify FILE, or --page FOLDER")
    if metric not in METRICS:
        raise UsageError(f"--metric {metric}: no such metric.{choices(metric, METRICS)}")
    controls = CONTROLS if control is None else tuple(one for one in control if one != NO_CONTROLS)
    protocol = Protocol(
        tuple(methods), bench, seeds, budget, tuning_seeds, metric, tuple(against or ()), controls, overrides_of(sets), steps,
    )
    if dry_run:
        _list(protocol, device, output, json)
        return
    from kdflow.compare.work import Execution

    request = Execution(
        name=name, storage=storage, resume=resume, join=join, together=together, device=device, output=output, file=file,
    )
    _carry_out(protocol, request, json)


def _without_runs(verify: Path | None, page: Path | None, asked: bool, json: bool) -> None:
    if asked or (verify is not None and page is not None):
        raise UsageError("--verify FILE and --page FOLDER stand alone: nothing is run")
    if verify is not None:
        _check_file(verify, json)
    elif page is not None:
        _make_page(page)


def _carry_out(protocol: Protocol, request: Execution, json: bool) -> None:
    from kdflow.compare.work import compare as carry_out

    try:
        found, place = carry_out(protocol, request, note, listeners())
    except KeyboardInterrupt:
        note("interrupted; everything finished is kept, and --resume goes on")
        raise
    say_json(found.model_dump(mode="json")) if json else say(report(found))
    note(f"written to {place}; kdflow compare --verify checks it")
    if any(run.failure for entry in found.comparison.entries for run in entry.runs):
        raise typer.Exit(1)


def _list(protocol: Protocol, device: str, output: Path | None, json: bool) -> None:
    """What would be run; the measured runs as they are at the declared values."""
    from kdflow.compare.entries import lineup_of
    from kdflow.compare.work import Tuned, measured_jobs, tuning_jobs
    from kdflow.experiment.session import Preview

    preview = Preview(device)
    found = lineup_of(protocol, preview)
    for left, reason in found.left_out.items():
        note(f"{left}: left out: {reason}")
    trials = tuning_jobs(protocol, found, preview)
    runs = measured_jobs(protocol, found, Tuned(values={entry.name: {} for entry in found.entries}), preview)
    if not json:
        open_ = [entry for entry in found.entries if entry.space.ranges]
        say(f"{len(found.entries)} entries: {', '.join(entry.name for entry in found.entries)}")
        say(f"{len(open_)} are tuned, {protocol.budget} trials each; then {protocol.seeds} runs of every entry")
    show_jobs([*trials, *runs], runs_folder(output), json)


def _check_file(path: Path, json: bool) -> None:
    from kdflow.compare.verify import faults_of, read_file, warnings_of

    found = read_file(path)
    faults, warnings = faults_of(found), warnings_of(found)
    if json:
        say_json({"file": str(path), "content": found.content, "faults": faults, "warnings": warnings})
    else:
        for words in faults:
            note(f"{path}: {words}")
        for words in warnings:
            say(f"worth knowing: {words}")
        if not faults:
            say(f"{path}: all that follows from its runs follows ({found.content}). To see whether the runs are true, run again:")
            say(f"  {found.comparison.settings.command}")
    if faults:
        raise typer.Exit(1)


def _make_page(folder: Path) -> None:
    from kdflow.compare.page import write_page

    place, refused = write_page(folder)
    for words in refused:
        note(words)
    say(str(place))
    if refused:
        raise typer.Exit(1)
