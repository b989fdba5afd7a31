"""``kdflow matrix``: which method runs on which bench."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from kdflow.cli.console import say, say_json
from kdflow.cli.options import JsonOption

Names = Annotated[list[str] | None, typer.Argument(metavar="[SPEC]...", help="Methods; without any, all that come with kdflow.")]
Benches = Annotated[list[str] | None, typer.Option("--bench", metavar="BENCH", help="Repeatable; without it all drawn benches.")]


def matrix(specs: Names = None, bench: Benches = None, json: JsonOption = False) -> None:
    """Compile methods on benches and say where each runs, or why it does not. Nothing is trained."""
    from kdflow.experiment.find import names_in
    from kdflow.experiment.matrix import as_markdown, portability
    from kdflow.resources import specs_folder

    methods = specs or names_in(specs_folder())
    benches = bench or [name for name in names_in(specs_folder() / "benches") if name.startswith("shapes-")]
    cells = portability(methods, benches)
    if json:
        say_json([asdict(cell) for cell in cells])
    else:
        say(as_markdown(cells))
