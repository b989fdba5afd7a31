"""``kdflow results``: what was measured, beside what was published."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from kdflow.cli.console import say
from kdflow.cli.options import JsonOption, OutputFile, Runs
from kdflow.files import write_text

if TYPE_CHECKING:
    from kdflow.results.query import Answer


class By(StrEnum):
    """What results are grouped by."""

    taxonomy = "taxonomy"
    method = "method"
    bench = "bench"
    family = "family"
    knowledge = "knowledge"


class Form(StrEnum):
    """How results are written."""

    table = "table"
    csv = "csv"
    json = "json"
    md = "md"


Where = Annotated[
    str, typer.Option(metavar="FILTER", help="For example \"bench ~ 'shapes-*' and node = 'cnn' and AP > 30\".")
]


def results(
    by: Annotated[By, typer.Option(help="How to group.")] = By.taxonomy,
    where: Where = "",
    published: Annotated[
        bool, typer.Option("--published", help="Also list the numbers of the literature, labelled as such.")
    ] = False,
    against: Annotated[
        str, typer.Option(metavar="METHOD", help="The method that measured gains are counted from.")
    ] = "baseline",
    metric: Annotated[str, typer.Option(help="Orders the lines; gains are given in it.")] = "AP",
    ablations: Annotated[
        bool, typer.Option("--ablations", help="Also published rows that take a method apart.")
    ] = False,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Also runs that did not finish.")] = False,
    trials: Annotated[bool, typer.Option("--trials", help="Also trials of searches.")] = False,
    classes: Annotated[
        bool, typer.Option("--classes", help="Also AP by size and by class, below every line of the table.")
    ] = False,
    runs: Runs = None,
    format: Annotated[Form, typer.Option("--format", help="How to write them.")] = Form.table,
    json: JsonOption = False,
    output: OutputFile = None,
) -> None:
    """Query what was measured and published.

    Results are grouped, averaged over seeds, with gains over the plain student of the same bench.
    Measured and published numbers are never averaged with each other, and every line says which it is.
    """
    from kdflow.api import results as ask
    from kdflow.results.table import render

    answer = ask(
        by=by.value,
        where=where,
        published=published,
        against=against,
        metric=metric,
        ablations=ablations,
        unfinished=unfinished,
        trials=trials,
        store=runs,
    )
    form = Form.json if json else format
    if output is None and form is Form.table and sys.stdout.isatty():
        _show(answer, classes)
        return
    text = render(answer, {"md": "markdown"}.get(form.value, form.value), classes)
    if output is not None:
        write_text(output, text)
    else:
        say(text.rstrip("\n"))


def _show(answer: Answer, classes: bool) -> None:
    from rich.console import Console

    from kdflow.results.table import rich_table

    Console().print(rich_table(answer, classes))
