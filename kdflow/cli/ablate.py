"""``kdflow ablate``: which taxonomy node of a method brings its gain."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from kdflow.cli.console import columns, say, say_json
from kdflow.cli.options import BenchOption, JsonOption, Output, SetOption, Spec, overrides_of
from kdflow.cli.sweep import DryRun, Join, Resume, Seeds, Steps, Storage, Together, carry_out, end, show_jobs
from kdflow.errors import UsageError, choices
from kdflow.folders import runs_folder

if TYPE_CHECKING:
    from kdflow.experiment.ablate import Ablation

METRICS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "voc_ap50", "voc07_ap50")


def ablate(
    spec: Spec,
    bench: BenchOption = None,
    seeds: Seeds = 1,
    metric: Annotated[str, typer.Option(help="What is compared, on the test split.")] = "AP",
    sets: SetOption = None,
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
    """Run a method with each taxonomy node's terms left out, and with each alone.

    Weights are set to 0, so that all else stays as it is. Says what each node brings alone, and what is lost without it.
    """
    from kdflow.experiment.ablate import distinct, judge, plan_ablation, shared
    from kdflow.experiment.nesting import nested
    from kdflow.experiment.session import Preview, open_session
    from kdflow.tracking.store import require_store

    if metric not in METRICS:
        raise UsageError(f"--metric {metric}: no such metric.{choices(metric, METRICS)}")
    changes, place = overrides_of(sets), runs_folder(output)
    if dry_run:
        _, jobs = plan_ablation(spec, bench, range(seeds), changes, steps=steps, session=Preview(device))
        show_jobs(distinct(jobs), place, json)
        return
    require_store(place)
    with open_session(device) as session:
        parts, jobs = plan_ablation(spec, bench, range(seeds), changes, steps=steps, session=session)
        runs = distinct(jobs)
        done = carry_out(runs, session, place, "ablation", resume, together, join, storage)
        results = list(nested(runs, done, place, "ablation"))
    found = judge(parts, shared(jobs, results), metric)
    if json:
        say_json(asdict(found))
    else:
        say(report(found))
    end(runs, results)


def report(found: Ablation) -> str:
    """The table and the verdict."""
    rows = [
        (part.node, _points(part.alone), _points(None if part.lost is None else -part.lost), ", ".join(part.terms))
        for part in found.parts
    ]
    head = ("node", f"{found.metric} alone", "left out", "terms")
    spread = max(found.spreads.values(), default=None)
    lines = [
        f"no term {_value(found.none)}, all terms {_value(found.full)} {found.metric} (test)",
        columns(rows, head=head),
        found.verdict,
    ]
    if spread is not None:
        lines.append(f"largest standard deviation over seeds: {spread:.2f}; smaller differences say little")
    return "\n".join(lines)


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
