"""``kdflow explain``: the graph of a method on a bench, in words or as a picture."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from kdflow.cli.console import say, say_json
from kdflow.cli.options import BenchOption, JsonOption, OutputFile, SetOption, Spec, overrides_of
from kdflow.files import write_text

if TYPE_CHECKING:
    from kdflow.experiment.setup import Setting


class Form(StrEnum):
    """How a graph can be shown."""

    text = "text"
    json = "json"
    mermaid = "mermaid"
    svg = "svg"
    code = "code"


def explain(
    spec: Spec,
    bench: BenchOption = None,
    format: Annotated[Form, typer.Option("--format", help="code shows the generated training step.")] = Form.text,
    sets: SetOption = None,
    output: OutputFile = None,
    json: JsonOption = False,
) -> None:
    """Show the graph of a method on a bench.

    Taps and their shapes, nodes, terms, adapters, and which teacher stages run at all. --json is --format json.
    """
    from kdflow.experiment.reading import read_method
    from kdflow.experiment.setup import prepare

    setting = prepare(read_method(spec), bench, overrides=overrides_of(sets))
    format = Form.json if json else format
    if format is Form.json and output is None:
        from kdflow.graph.draw import as_json

        say_json(as_json(setting.plan, teacher_shares(setting)))
        return
    text = _text(setting, format)
    if output is None:
        say(text.rstrip("\n"))
    else:
        write_text(output, text)


def _text(setting: Setting, form: Form) -> str:
    from json import dumps

    from kdflow.graph import draw

    if form is Form.mermaid:
        return draw.as_mermaid(setting.plan)
    if form is Form.svg:
        return draw.as_svg(setting.plan)
    if form is Form.code:
        return setting.plan.code
    shares = teacher_shares(setting)
    if form is Form.json:
        return dumps(draw.as_json(setting.plan, shares), indent=2, ensure_ascii=False) + "\n"
    return draw.as_text(setting.plan, shares)


def teacher_shares(setting: Setting) -> dict[str, float]:
    """Teacher stage (``teacher.neck``) -> its share of that teacher's operations; empty without a teacher."""
    from kdflow.experiment.build import canvas_of
    from kdflow.graph.cost import stage_flops

    shares: dict[str, float] = {}
    teachers = {owner: d for owner, d in setting.detectors.items() if owner != "student"}
    canvas = canvas_of(setting.bench, setting.detectors)
    for owner, detector in teachers.items():
        flops = stage_flops(detector, canvas)
        whole = sum(flops.values()) or 1
        shares |= {f"{owner}.{stage}": count / whole for stage, count in flops.items()}
    return shares
