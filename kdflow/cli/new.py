"""``kdflow new``: a commented spec to start from, or a bench for one's own data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from kdflow.cli.console import note, say
from kdflow.errors import UsageError

Name = Annotated[
    str | None,
    typer.Argument(metavar="[NAME]", help="Name of the method: small letters, digits and dashes. Writes NAME.yaml."),
]
Bench = Annotated[
    str | None, typer.Option("--bench", metavar="NAME", help="Write a bench of this name for --data, in place of a method.")
]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="FOLDER", help="Your pictures and boxes: COCO, VOC, YOLO or a Hugging Face folder."),
]
_DETECTOR = "DETECTOR or DETECTOR/BACKBONE, as in retinanet/resnet18, yolox/tiny or faster-rcnn/timm:mobilenetv3_large_100"
Student = Annotated[str | None, typer.Option("--student", metavar="DETECTOR", help=f"{_DETECTOR}; without it retinanet.")]
Teacher = Annotated[
    str | None,
    typer.Option("--teacher", metavar="DETECTOR", help="The same; without it the student's detector on a larger backbone."),
]
Size = Annotated[
    int | None, typer.Option("--size", min=32, max=8192, help="Shorter side of the input; without it what the objects need.")
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
    name: Name = None,
    like: Annotated[
        str | None, typer.Option("--like", metavar="SPEC", help="Start from a copy of this method.")
    ] = None,
    bench: Bench = None,
    data: Data = None,
    student: Student = None,
    teacher: Teacher = None,
    size: Size = None,
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where to write it.")] = Path(),
) -> None:
    """Write a commented spec to start from, or with --bench and --data a bench for your own pictures.

    A bench gets the data's format, splits, classes and size, anchors that fit the boxes, and a recipe for their number.
    An existing file is never overwritten.
    """
    if bench is None:
        _refuse({"--data": data, "--student": student, "--teacher": teacher, "--size": size}, "a bench: add --bench NAME")
        path = _place(name, folder, "method")
        text = TEMPLATE.format(name=path.stem, file=path) if like is None else _copy(like, path.stem)
        _write(path, text)
        say(f'{path} written; "kdflow check {path}" checks it')
        return
    _refuse({"NAME": name, "--like": like}, "a method: leave it out, or leave out --bench")
    if data is None:
        raise UsageError("--bench is made for a folder of pictures: name it with --data FOLDER")
    path = _place(bench, folder, "bench")
    _new_bench(path, data, student or "retinanet", teacher, size)


def _new_bench(path: Path, data: str, student: str, teacher: str | None, size: int | None) -> None:
    from kdflow.experiment.draft import draft_bench
    from kdflow.folders import name_problem

    if problem := name_problem(path.stem):
        raise UsageError(problem)
    draft = draft_bench(path.stem, data, path.parent, student, teacher, size)
    _write(path, draft.text)
    for remark in draft.remarks:
        note(remark)
    say(f'{path} written; "kdflow check --bench {path}" checks it, "kdflow data check {path}" looks at all pictures')


def _refuse(given: dict[str, object], purpose: str) -> None:
    """Refuse what belongs to the other thing that can be written."""
    if wrong := [key for key, value in given.items() if value is not None]:
        raise UsageError(f"{wrong[0]} is for {purpose}")


def _place(name: str | None, folder: Path, what: str) -> Path:
    """The file of a new method or bench; raises UsageError for a name that it cannot have, or that is taken."""
    if name is None:
        raise UsageError("name a method to write, or a bench with --bench NAME --data FOLDER")
    slug = name.removesuffix(".yaml")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", slug):
        raise UsageError(f'"{slug}" cannot name a {what}: use small letters, digits and dashes')
    path = folder / f"{slug}.yaml"
    if path.exists():
        raise UsageError(_taken(path))
    return path


def _taken(path: Path) -> str:
    return f"{path} exists; choose another name, or remove it first"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(_taken(path)) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _copy(like: str, slug: str) -> str:
    """The text of another method under a new name, comments kept."""
    from kdflow.experiment.find import find_method
    from kdflow.spec.resolve import load_method

    source = find_method(like)
    load_method(source, find_method)
    text = re.sub(r"^method:.*$", f"method: {slug}", source.read_text(encoding="utf-8"), count=1, flags=re.MULTILINE)
    return f"# Started from {source.stem}.\n{text}"
