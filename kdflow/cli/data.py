"""``kdflow data``: the drawn default set, checking a data set, and converting one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdflow.cli.console import note, say, say_json
from kdflow.cli.options import JsonOption, overrides_of
from kdflow.errors import UsageError

if TYPE_CHECKING:
    from kdflow.data.check import DataReport
    from kdflow.data.formats import DataSource
    from kdflow.data.transforms import Geometry

app = typer.Typer(help="Draw, check and convert data sets.", no_args_is_help=True, rich_markup_mode=None)


Folder = Annotated[
    str,
    typer.Argument(
        metavar="FOLDER", help="A COCO, VOC, YOLO or Hugging Face folder, or a bench file or name: its data are taken."
    ),
]


@app.command("shapes")
def shapes(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Where to draw; without it kdflow's own folder.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An option of the format, as in --set images.train=100. Repeatable."
        ),
    ] = None,
) -> None:
    """Draw the default data set as a COCO folder of image files."""
    from kdflow.data.formats import parse_options
    from kdflow.data.shapes import ShapesOptions, drawn_folder, write_shapes

    options = parse_options("shapes", _nested(overrides_of(sets)))
    if not isinstance(options, ShapesOptions):
        raise TypeError(type(options).__name__)
    if folder is None:
        say(str(drawn_folder(options)))
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty. Next: name a new folder")
    write_shapes(folder, options)
    say(str(folder.resolve()))


@app.command("check")
def check(
    folder: Folder,
    quick: Annotated[bool, typer.Option("--quick", help="Annotations only; no image file is opened.")] = False,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="Write an HTML page with pictures and their boxes, too.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check every split of a data set: missing and broken files, wrong boxes, unknown classes, leaks between splits.

    Sizes are counted at a bench's input size; for a folder at that of a bench that says nothing.
    """
    from kdflow.data.check import check_data
    from kdflow.data.folders import open_folder

    named, geometry = _source(folder)
    source = open_folder(named) if isinstance(named, str) else named
    report = check_data(source, files=not quick, geometry=geometry)
    if page is not None:
        _write_page(page, report, source, folder)
    if json:
        say_json(
            {
                "format": report.format,
                "classes": report.classes,
                "splits": [{**vars(split), "findings": [str(f) for f in split.findings]} for split in report.splits],
                "across": [str(finding) for finding in report.across],
                "problems": len(report.faults),
            }
        )
    else:
        say(str(report))
    if report.faults:
        raise typer.Exit(2)


def _write_page(file: Path, report: DataReport, source: DataSource, name: str) -> None:
    from kdflow.data.page import page
    from kdflow.files import write_text

    tables = {split: source.splits.read(split) for split in source.splits.existing}
    write_text(file, page(report, tables, name))
    note(f"{file} written")


@app.command("convert")
def convert(
    source: Folder,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A new folder.")],
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="Format to write: coco, voc, yolo, huggingface.")],
) -> None:
    """Write a data set in another format; image files are copied as they are."""
    from kdflow.data.convert import convert as write

    say(str(write(_source(source)[0], target, to, note)))


def _source(name: str) -> tuple[DataSource | str, Geometry | None]:
    """The data set of a folder, or of a bench with its input size."""
    from kdflow.data.formats import open_data
    from kdflow.experiment.feed import geometry_of
    from kdflow.experiment.find import find_bench
    from kdflow.spec.resolve import load_bench

    if Path(name).is_dir():
        return name, None
    try:
        file = find_bench(name)
    except UsageError:
        raise UsageError(f'"{name}" is neither a folder nor a bench ("kdflow benches" lists those)') from None
    data = load_bench(file).data
    return open_data(data.format, data.options), geometry_of(data)


def _nested(flat: dict[str, object]) -> dict[str, object]:
    """``{"images.train": 5}`` -> ``{"images": {"train": 5}}``."""
    result: dict[str, object] = {}
    for path, value in flat.items():
        first, dot, rest = path.partition(".")
        inner = result.setdefault(first, {}) if dot else None
        if isinstance(inner, dict):
            inner[rest] = value
        else:
            result[first] = value
    return result
