"""``kdflow report``: the results as one page for a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdflow.cli.console import say
from kdflow.cli.options import Runs
from kdflow.cli.results import Where


def report(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the page; it is made.")
    ] = Path("report"),
    where: Where = "",
    against: Annotated[
        str, typer.Option(metavar="METHOD", help="The method that measured gains are counted from.")
    ] = "baseline",
    metric: Annotated[str, typer.Option(help="Gains are given in it.")] = "AP",
    ablations: Annotated[bool, typer.Option("--ablations", help="Also published rows that take a method apart.")] = False,
    runs: Runs = None,
) -> None:
    """Write one HTML page with everything that was measured and published.

    The taxonomy tree with gains at each node, gains per bench with their spread, step cost against gain, shares of the loss over
    time, and each run's spec and graph. The page is a single file, needs no network, and prints.
    """
    from kdflow.api import report as write

    file = write(output, where, against=against, metric=metric, ablations=ablations, store=runs)
    say(str(file))
