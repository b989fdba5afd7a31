"""``kdflow search``: Optuna over the weights of a method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdflow.cli.console import columns, note, say, say_json
from kdflow.cli.options import BenchOption, JsonOption, Output, SetOption, Spec, overrides_of

if TYPE_CHECKING:
    from kdflow.events import Silent
    from kdflow.search.outcome import Best, Outcome

Trials = Annotated[
    int | None, typer.Option(min=1, help="Finished trials of the study in all, however many workers share it; 20 unless told.")
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        help="Judged on the validation split; the method's own metric, else AP. Repeated, also with flops, parameters, step_ms "
        "or added_parameters: a Pareto front.",
    ),
]
Includes = Annotated[
    list[str] | None,
    typer.Option(
        "--include", metavar="PATH=RANGE",
        help="A range beside the spec's: 1..16, 1..16,log, 2..8,step=2 or a,b,c for any path of spec or bench. Repeatable.",
    ),
]
Storage = Annotated[
    str | None, typer.Option(metavar="URL", help="Optuna database such as sqlite:///x.db; without it search.db in --output.")
]


def search(
    spec: Spec,
    trials: Trials = None,
    bench: BenchOption = None,
    storage: Storage = None,
    study: Annotated[str | None, typer.Option(metavar="NAME", help="Name; without it made of method and bench.")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="tpe (unless told), nsga2 (unless told, for several metrics), cmaes, random, grid or gp.")
    ] = None,
    pruner: Annotated[str | None, typer.Option(help="median (unless told), hyperband or none.")] = None,
    metric: Metrics = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="COST=N", help="A trial whose student has more flops or parameters is not trained. Repeatable."),
    ] = None,
    include: Includes = None,
    sets: SetOption = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Length of every trial; without it the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every trial's run and of the sampler; 0 unless told.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0, metavar="S", help="No trial begins after S seconds.")] = None,
    together: Annotated[
        int, typer.Option(min=1, metavar="K", help="Train up to K trials side by side, on one pass of the teacher.")
    ] = 1,
    plain_seeds: Annotated[
        int, typer.Option(min=1, metavar="N", help="Seeds of the student without distillation, to know the noise.")
    ] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; CUDA_VISIBLE_DEVICES chooses among GPUs.")] = "auto",
    output: Output = None,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the method with the best values filled in.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study of this name.")] = False,
    join: Annotated[
        bool, typer.Option("--join", help="Begin the study or join its workers: the same command on every machine.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Search the values that a spec marks with search:, and others on request.

    Trials are judged on the validation split; the best one's student is then measured once on the test split. Beside them the
    student learns without distillation on some seeds, so that "no trial differs beyond noise" is an answer. A failed trial is
    recorded with its reason and does not end the study. Ctrl-C keeps everything, and --resume goes on. Several workers: start
    the same command with --join on every machine that reaches the storage. With --together 4, a worker trains four trials at a
    time; their values are drawn before any of the four is judged.
    """
    from kdflow.search.request import Request
    from kdflow.search.study import search as run_search

    request = Request(
        trials=trials, bench=bench, study=study, storage=storage, sampler=sampler, pruner=pruner, metrics=tuple(metric or ()),
        limits=tuple(limit or ()), include=tuple(include or ()), overrides=overrides_of(sets), steps=steps, seed=seed,
        timeout=timeout, resume=resume, join=join, together=together, device=device, output=output, write=write,
        plain_seeds=plain_seeds, hooks=_progress(),
    )
    try:
        outcome = run_search(spec, request, note)
    except KeyboardInterrupt:
        note("interrupted; everything finished is kept, and --resume goes on")
        raise
    if json:
        say_json(outcome.as_json())
    else:
        say(_report(outcome))
    if not outcome.best and outcome.complete:
        raise typer.Exit(1)


def _progress() -> Callable[[int | str], Sequence[Silent]]:
    """Progress of every trial."""
    from kdflow.cli.progress import Bars, ProgressHook

    bars = Bars()

    def hooks(trial: int | str) -> Sequence[Silent]:
        return [ProgressHook(f"trial {trial}" if isinstance(trial, int) else f"without distillation ({trial})", bars=bars)]

    return hooks


def _front(front: Sequence[Best]) -> str:
    """A line per trial: what it is judged by, and its values."""
    paths = list(dict.fromkeys(path for best in front for path in best.values))
    rows = [
        (
            str(best.number),
            *(_number(metric, value) for metric, value in best.objectives.items()),
            *(str(best.values.get(path, "")) for path in paths),
        )
        for best in front
    ]
    return columns(rows, head=("trial", *front[0].objectives, *paths))


def _number(metric: str, value: float) -> str:
    """Percent with two decimals; counts of operations and parameters short (1.23 G)."""
    from kdflow.spec.metrics import QUALITY

    if metric not in QUALITY:
        for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if abs(value) >= size:
                return f"{value / size:.2f} {unit}"
    return f"{value:.2f}"


def _report(outcome: Outcome) -> str:
    """The outcome in words."""
    counts = ", ".join(f"{count} {state}" for state, count in outcome.counts.items())
    lines = [f"{outcome.study}: {outcome.method} on {outcome.bench}; trials: {counts}"]
    lines += [f"trial {number} failed: {reason}" for number, reason in outcome.failures.items()]
    if not outcome.best:
        return "\n".join([*lines, "no trial has finished, so there is no best one"])
    if len(outcome.best[0].objectives) > 1:
        lines.append("the front: no trial is better in everything than these (validation)")
        lines.append(_front(outcome.best))
    else:
        found = "  ".join(f"{metric} {_number(metric, value)}" for metric, value in outcome.best[0].objectives.items())
        lines.append(f"trial {outcome.best[0].number}, validation: {found}")
    if outcome.test:
        shown = "  ".join(f"{m} {outcome.test[m]:.2f}" for m in ("AP", "AP50", "voc_ap50") if m in outcome.test)
        lines.append(f"trial {outcome.best[0].number}, test (measured once): {shown}")
    lines += outcome.plain.words
    if outcome.importances:
        rows = [(path, f"{100 * share:.0f} %") for path, share in outcome.importances.items()]
        lines.append(columns(rows, head=("path", "share of the variation")))
    lines += [*outcome.notes, *outcome.files, outcome.yaml.rstrip()]
    return "\n".join(lines)
