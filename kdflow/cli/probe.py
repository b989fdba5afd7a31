"""``kdflow probe``: look at a method on its bench before it is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kdflow.cli.console import columns, note, say, say_json
from kdflow.cli.options import BenchOption, JsonOption, SetOption, Spec, overrides_of

if TYPE_CHECKING:
    from kdflow.experiment.probe import Probed


def probe(
    spec: Spec,
    bench: BenchOption = None,
    seed: Annotated[int, typer.Option(help="Seed of initial weights and data order.")] = 0,
    batches: Annotated[int, typer.Option(min=1, metavar="N", help="Batches that are looked at.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; CUDA_VISIBLE_DEVICES chooses among GPUs.")] = "auto",
    sets: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Look at a method's terms and nodes on its first batches; nothing is trained, except for a teacher that is missing.

    Says how hard each term pulls at the student beside the detector's losses, and which weight would be even; the root mean
    squares of both sides; and which nodes are dead, saturated or collapsed.
    """
    from kdflow.experiment.probe import look_ahead
    from kdflow.experiment.request import RunRequest

    found = look_ahead(RunRequest(spec, bench, seed, overrides=overrides_of(sets)), batches, device, note)
    if json:
        say_json(found.as_json())
    else:
        say(_report(found))


def _report(found: Probed) -> str:
    lines = [f"{found.method} on {found.bench}, before its first step"]
    if found.pulls:
        rows = [(p.term, f"{p.weight:g}", f"{p.pull:.3g} x", f"{p.even_weight:.2g}") for p in found.pulls]
        lines += ["", columns(rows, head=("term", "weight", "pull", "weight for 1 x"))]
    if found.values.sides:
        sides = [(s.term, _numbers(s.student), _numbers(s.teacher)) for s in found.values.sides]
        lines += ["", columns(sides, head=("root mean squares", "student", "teacher"))]
    notes = found.values.notes or ("no node is dead, saturated or collapsed",)
    return "\n".join([*lines, "", *notes])


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.2g}" for value in values)
