"""``kdflow new``: a commented spec to start from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from kdflow.cli.console import say
from kdflow.errors import UsageError

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the method: small letters, digits and dashes. Writes NAME.yaml.")
]

TEMPLATE = """\
# {name}: say in a line or two what it does and where the formulas come from.
# Check it with "kdflow check {file}", see it with "kdflow explain {file}", train it with "kdflow run {file}".
kdflow: 1
method: {name}
title: My own method
fidelity: reconstructed            # code | paper | reconstructed: what the formulas follow
bench: shapes-faster-rcnn          # "kdflow benches" lists benches; --bench runs it on another one

nodes:
  # A node is one operation; its inputs are ports (student.neck), nodes of this file, or batch values (targets.boxes).
  # "kdflow ops" lists operations, "kdflow detectors NAME" lists ports.
  objects: {{op: mask.boxes, like: teacher.neck, assign: every}}
  aligned: {{op: adapter.conv, features: student.neck, like: teacher.neck, kernel: 1}}

terms:
  # A term is one loss. It is elementwise, multiplied by factors, summed, and divided by the product of "over":
  # numbers, axes (c, y, x ...), rows, elements, or nodes (the sum of their entries).
  neck:
    loss: loss.squared_error
    student: aligned
    teacher: teacher.neck
    factors: [objects]
    weight: 1.0
    reduce: {{over: [c, objects], floor: 1, levels: mean}}
    # schedule: {{warmup: 500}}    # warmup, decay, defer, stop, drop, ramp; several multiply

search:
  # What "kdflow search" may choose.
  terms.neck.weight: {{low: 0.1, high: 10, log: true}}
"""


def new(
    name: Name,
    like: Annotated[
        str | None, typer.Option("--like", metavar="SPEC", help="Start from a copy of this method.")
    ] = None,
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where to write it.")] = Path(),
) -> None:
    """Write a commented spec to start from.

    An existing file is never overwritten.
    """
    slug = name.removesuffix(".yaml")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", slug):
        raise UsageError(f'"{slug}" cannot name a method: use small letters, digits and dashes')
    path = folder / f"{slug}.yaml"
    text = TEMPLATE.format(name=slug, file=path) if like is None else _copy(like, slug)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} exists; choose another name, or remove it first") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    say(f'{path} written; "kdflow check {path}" checks it')


def _copy(like: str, slug: str) -> str:
    """The text of another method under a new name, comments kept."""
    from kdflow.experiment.setup import find_method
    from kdflow.spec.resolve import load_method

    source = find_method(like)
    load_method(source, find_method)
    text = re.sub(r"^method:.*$", f"method: {slug}", source.read_text(encoding="utf-8"), count=1, flags=re.MULTILINE)
    return f"# Started from {source.stem}.\n{text}"
