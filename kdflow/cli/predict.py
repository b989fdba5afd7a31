"""``kdflow predict``: a trained student, shown pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdflow.cli.console import note, say, say_json
from kdflow.cli.options import Device, JsonOption, Owner, RunOrExport
from kdflow.escape import one_line


def predict(
    run: RunOrExport,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Images, folders of images, videos.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder for drawn pictures and predictions.json."),
    ] = None,
    threshold: Annotated[float, typer.Option(help="Detections have more than this score.")] = 0.5,
    owner: Owner = "student",
    device: Device = "auto",
    json: JsonOption = False,
) -> None:
    """Find objects in pictures, which are treated as in the student's evaluation.

    Without --output the detections are only printed. A folder with student.py is used by the code that lies in it.
    """
    from kdflow.using.predict import predictions

    for found in predictions(run, paths, output, threshold, owner, device):
        if json:
            say_json(found.as_json(), compact=True)
            continue
        say(f"{one_line(found.image)}  {found.width}x{found.height}  {len(found.detections)} found")
        for one in found.detections:
            box = ", ".join(f"{side:.1f}" for side in one.box)
            say(f"  {one_line(one.name)}  {one.score:.3f}  [{box}]")
    if output is not None:
        note(f"drawn pictures and predictions.json are in {output}")
