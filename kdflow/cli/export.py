"""``kdflow export``: a trained detector in the forms that others take."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kdflow.cli.console import note, say, say_json
from kdflow.cli.options import JsonOption, Owner, Run


class Format(StrEnum):
    """Forms."""

    onnx = "onnx"
    torch = "torch"
    safetensors = "safetensors"
    hf = "hf"


Picture = Annotated[
    str | None,
    typer.Option(metavar="HEIGHTxWIDTH", help="ONNX: size of the pictures, where the bench keeps their aspect ratio."),
]
Check = Annotated[
    list[str] | None, typer.Option(metavar="PATH", help="Pictures to compare on, for the validation split. Repeatable.")
]
Measure = Annotated[
    bool | None,
    typer.Option(
        "--measure/--no-measure",
        help="Measure the export on the test split and show its AP beside the run's. [default: up to 1000 pictures]",
    ),
]


def export(
    run: Run,
    format: Annotated[Format, typer.Option("--format", help="onnx, torch, safetensors, or hf (DETRs).")] = Format.onnx,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Without it a folder in the run's own.")
    ] = None,
    owner: Owner = "student",
    teacher: Annotated[
        bool, typer.Option("--teacher", help="Export the teacher; the same as --owner teacher.")
    ] = False,
    threshold: Annotated[float, typer.Option(help="ONNX: detections have more than this score.")] = 0.0,
    picture: Picture = None,
    check: Check = None,
    measure: Measure = None,
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Also keep it as a model of the run's record, with its signature.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write a trained detector with everything that its evaluation did to a picture.

    Resize, padding, normalisation, classes and thresholds leave with it. Pictures of the validation split are shown to the new
    form and to kdflow; unless both find the same, the export is refused. Then its AP on the test split is measured.
    """
    from kdflow.using.export.formats import export as write

    done = write(
        run,
        format.value,
        output,
        owner="teacher" if teacher else owner,
        threshold=threshold,
        size=_size(picture),
        check=check or (),
        measured=measure,
    )
    if json:
        say_json(
            {
                "folder": str(done.folder),
                "files": list(done.files),
                "compared": vars(done.agreement),
                "notes": list(done.notes),
                "AP": {"export": done.ap, "run": done.own},
            }
        )
    else:
        say(f"{done.folder}: {', '.join(done.files)}")
        for words in filter(None, (*done.notes, f"checked: {done.agreement.words}", done.words)):
            note(f"  {words}")
    if mlflow:
        from kdflow.using.export.record import keep

        note(f"  kept in MLflow as {keep(run, done, format.value)}")


def _size(picture: str | None) -> tuple[int, int] | None:
    if picture is None:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", picture)
    if found is None:
        raise typer.BadParameter(f"{picture!r} is no size; write HEIGHTxWIDTH, as in 480x640")
    return int(found[1]), int(found[2])
