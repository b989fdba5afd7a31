"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Specs = Annotated[
    list[str], typer.Argument(metavar="SPEC...", help="Method files, or names of methods that come with kdflow.")
]
Spec = Annotated[
    str, typer.Argument(metavar="SPEC", help="A method file, or the name of a method that comes with kdflow.")
]
BenchOption = Annotated[
    str | None, typer.Option("--bench", metavar="BENCH", help="Bench file or name; without it the spec's own.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Set one value of spec or bench, as in --set terms.neck.weight=2 or --set recipe.batch=4. Repeatable.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
PluginOption = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="A Python file with ops of your own. Repeatable.")
]
Output = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of runs; without it $KDFLOW_RUNS, else kdflow-runs.")
]
Runs = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of runs; without it MLFLOW_TRACKING_URI, $KDFLOW_RUNS or kdflow-runs.")
]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="Folder of a run, or its name in the folder of runs.")
]
RunOrExport = Annotated[
    str,
    typer.Argument(
        metavar="RUN|EXPORT",
        help="Folder of a run, or its name in the folder of runs; an ONNX file, or a folder that was exported.",
    ),
]
Owner = Annotated[str, typer.Option("--owner", metavar="NAME", help="student, or a teacher of the run.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
OutputFile = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to a file and not to stdout.")
]


def overrides_of(pairs: Sequence[str] | None) -> dict[str, Any]:
    """``--set`` as a mapping; raises UsageError for text that is no PATH=VALUE."""
    from kdflow.spec.paths import parse_overrides

    return parse_overrides(list(pairs or ()))
