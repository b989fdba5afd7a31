"""``kdflow eval``: a trained student, measured again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kdflow.cli.console import columns, note, say, say_json
from kdflow.cli.options import BenchOption, Device, JsonOption, Owner, SetOption, overrides_of


class Split(StrEnum):
    """What is measured on."""

    test = "test"
    val = "val"


def evaluate(
    place: Annotated[
        str,
        typer.Argument(
            metavar="RUN|EXPORT|WEIGHTS",
            help="A run's folder or name; an ONNX file or another export; or weights of the bench's student.",
        ),
    ],
    bench: BenchOption = None,
    split: Annotated[Split, typer.Option(help="Images to measure on.")] = Split.test,
    owner: Owner = "student",
    device: Device = "auto",
    sets: SetOption = None,
    detections: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what was found, a COCO document with scores.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure a student on a split of a bench, over all classes and for each of them.

    A run is measured on its own bench unless told otherwise, and gives its own numbers again. What was exported sees the pictures
    as they lie on disk, one by one. Weights (a file, a model folder, a name that the library knows) go into the bench's student.
    """
    from kdflow.using.measure import measure

    found = measure(
        place,
        bench=bench,
        split=split.value,
        owner=owner,
        device=device,
        overrides=overrides_of(sets),
        detections=detections,
        notify=note,
    )
    if json:
        say_json({"split": split.value, "metrics": dict(found.metrics), "classes": dict(found.classes)})
        return
    say("  ".join(f"{name} {value:.2f}" for name, value in found.metrics.items()))
    rows = [
        (name, f"{numbers['objects']:g}", *(f"{numbers[key]:.2f}" if key in numbers else "" for key in ("AP", "AP50")))
        for name, numbers in found.classes.items()
    ]
    say(columns(rows, ("class", "objects", "AP", "AP50")))
