"""``kdflow look``: what a trained student sees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdflow.cli.console import say
from kdflow.cli.options import Run


def look(
    run: Run,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The page; without it look.html in the run's folder."),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A picture of the test split, by its file name. Repeatable."),
    ] = None,
    node: Annotated[
        str | None, typer.Option(metavar="NODE", help="A node of the graph, shown as heat over each picture.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Lowest score that is drawn and matched.")] = 0.3,
    most: Annotated[int, typer.Option(min=1, help="Pictures per section.")] = 8,
    against: Annotated[
        str | None, typer.Option(metavar="RUN", help="The plain student; without it the baseline run beside this one.")
    ] = None,
) -> None:
    """Write one HTML page: ground truth, teacher, plain student and student side by side.

    With the worst pictures, what the teacher finds and the student misses, what distillation gained and lost, the confusion of
    classes, precision over recall, and AP by class and size. The page is a single file and needs no network.
    """
    from kdflow.using.look.write import look as write

    say(str(write(run, output, images=images or (), node=node, threshold=threshold, most=most, against=against)))
