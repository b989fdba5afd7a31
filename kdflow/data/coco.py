"""COCO folders: a JSON file and an image folder per split."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from kdflow.data.annotations import Annotations, AnnotationsBuilder, Trouble
from kdflow.data.formats import DATASETS, SPLITS, DataFormat, FolderOptions, FormatOptions
from kdflow.errors import DataError

_WORDS: Mapping[str, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_YEARS = ("", "2017", "2014")


class SplitFiles(FormatOptions):
    """Where one split lies, relative to ``root``."""

    annotations: str = Field(description="annotation file, for example annotations/instances_train2017.json")
    images: str = Field(description="image folder, for example train2017")


class CocoOptions(FolderOptions):
    """Keys of ``format: coco``. A split that is not given is looked for under the usual names."""

    root: str = Field(description="folder of the data set; ~ and $VARIABLES are expanded")
    train: SplitFiles | None = None
    val: SplitFiles | None = None
    test: SplitFiles | None = None


def expand(path: str | Path) -> Path:
    """``path`` with ``~`` and environment variables replaced."""
    return Path(os.path.expandvars(str(path))).expanduser()


def find_splits(root: Path) -> dict[str, SplitFiles]:
    """Splits of a COCO folder by the usual names, as in ``annotations/instances_train2017.json`` beside ``train2017/``."""
    found = {}
    for split in SPLITS:
        files = next((path for path in _annotation_names(split) if (root / path).is_file()), None)
        if files is not None:
            folders = _image_names(split, Path(files))
            images = next(path for path in folders if (root / path).is_dir())
            found[split] = SplitFiles(annotations=files, images=images)
    return found


def _annotation_names(split: str) -> Iterator[str]:
    for word in _WORDS[split]:
        yield from (f"annotations/instances_{word}{year}.json" for year in _YEARS)
        yield from (f"annotations/{word}.json", f"{word}/_annotations.coco.json", f"{word}.json")


def _image_names(split: str, annotations: Path) -> Iterator[str]:
    if annotations.name == "_annotations.coco.json":
        yield str(annotations.parent)
    for word in _WORDS[split]:
        yield from (f"{prefix}{word}{year}" for year in _YEARS for prefix in ("", "images/"))
    yield from ("images", ".")


def split_files(options: CocoOptions) -> dict[str, SplitFiles]:
    """Files of every split, given or found; raises DataError when there is none."""
    root = expand(options.root)
    if not root.is_dir():
        raise DataError(f"data.root: there is no folder {root}")
    files = find_splits(root) | {s: given for s in SPLITS if (given := getattr(options, s)) is not None}
    if not files:
        raise DataError(
            f"data.root: no annotation file in {root}; looked for annotations/instances_train.json and the like. "
            "Name them with data.train and data.val: {annotations: FILE, images: FOLDER}"
        )
    return {split: files[split] for split in SPLITS if split in files}


def class_names(options: CocoOptions) -> tuple[str, ...]:
    """Class names in the order of the validation file (else the first file): the smallest to read."""
    files = split_files(options)
    chosen = files.get("val") or next(iter(files.values()))
    path = expand(options.root) / chosen.annotations
    return tuple(_categories(path, load_json(path)).values())


def read_split(options: CocoOptions, split: str) -> Annotations:
    """Annotations of one split; labels follow :func:`class_names`, matched by name."""
    files, root = split_files(options)[split], expand(options.root)
    return options.treat(read_file(root / files.annotations, root / files.images, class_names(options)))


def load_json(path: Path) -> dict[str, Any]:
    """A COCO document; raises DataError when it is missing, no JSON, or lacks a list."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}  {Trouble.UNREADABLE}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}  {Trouble.UNREADABLE}: not JSON ({error})") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}  {Trouble.UNREADABLE}: not one object with images, annotations and categories")
    lacking = [key for key in ("images", "annotations", "categories") if not isinstance(document.get(key), list)]
    if lacking:
        raise DataError(f"{path}  {Trouble.UNREADABLE}: the list {' and '.join(lacking)} is missing")
    return document


def _categories(path: Path, document: Mapping[str, Any]) -> dict[Any, str]:
    """Category id -> name, in the order of the file."""
    rows = document["categories"]
    if not rows or not all(isinstance(row, dict) and {"id", "name"} <= row.keys() for row in rows):
        raise DataError(f"{path}  {Trouble.UNREADABLE}: every entry of categories needs an id and a name")
    names = {row["id"]: str(row["name"]) for row in rows}
    twice = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    if len(names) < len(rows) or twice:
        raise DataError(
            f"{path}  categories: ids and names must differ from each other (twice: {', '.join(twice) or 'an id'})"
        )
    return names


def read_file(path: Path, images: Path, classes: tuple[str, ...]) -> Annotations:
    """A COCO file as arrays.

    Args:
        path: Annotation file.
        images: Folder that its file names are relative to.
        classes: Label order; categories of the file are matched by name.

    Raises:
        DataError: When the file cannot be read or lists classes that are not in ``classes``.
    """
    document = load_json(path)
    categories = _categories(path, document)
    foreign = sorted(set(categories.values()) - set(classes))
    if foreign:
        raise DataError(
            f"{path}  {Trouble.UNKNOWN_CLASS}: {', '.join(foreign)} (the validation file lists {', '.join(classes)}). "
            "Next: list the same categories in every split's file"
        )
    labels = {key: classes.index(name) for key, name in categories.items()}
    builder = AnnotationsBuilder(str(path), classes)
    positions = _read_images(builder, document["images"], images)
    for row in document["annotations"]:
        _read_box(builder, row if isinstance(row, dict) else {}, positions, labels)
    return builder.build()


def _read_images(builder: AnnotationsBuilder, rows: list[Any], folder: Path) -> dict[Any, int]:
    """Add the images; returns image id -> position."""
    positions: dict[Any, int] = {}
    for row in rows:
        row = row if isinstance(row, dict) else {}
        key, name = row.get("id"), str(row.get("file_name", ""))
        if type(key) is not int or key < 0:
            builder.problem(Trouble.IMAGE_ID, f"{key!r} ({name})")
        elif key in positions:
            builder.problem(Trouble.DUPLICATE_ID, f"{key} ({builder.names[positions[key]]} and {name})")
        else:
            size = (_side(row.get("height")), _side(row.get("width")))
            positions[key] = builder.image(folder / name, name, key, size)
    return positions


Positions = Mapping[Any, int]


def _read_box(builder: AnnotationsBuilder, row: Mapping[str, Any], positions: Positions, labels: Positions) -> None:
    image, category = row.get("image_id"), row.get("category_id")
    if not _known(image, positions):
        builder.problem(Trouble.UNKNOWN_IMAGE, f"image_id {image!r} of annotation {row.get('id')!r}")
        return
    owner = positions[image]
    if not _known(category, labels):
        builder.problem(Trouble.UNKNOWN_CLASS, f"category_id {category!r} in {builder.names[owner]}")
        return
    box, area = row.get("bbox"), row.get("area")
    numbers = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
    xywh = tuple(map(float, box)) if numbers and box else (math.nan,) * 4
    area = float(area) if _is_number(area) and area is not None and math.isfinite(area) and area >= 0 else None
    builder.box(owner, xywh, labels[category], bool(row.get("iscrowd", 0)), area)  # type: ignore[arg-type]


def _known(key: Any, table: Positions) -> bool:
    return isinstance(key, (int, str)) and key in table


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _side(value: Any) -> int:
    return int(value) if _is_number(value) and math.isfinite(value) else 0


DATASETS.add(
    "coco",
    DataFormat(
        options=CocoOptions,
        classes=class_names,
        splits=lambda options: tuple(split_files(options)),
        read=read_split,
        doc="COCO JSON folders: annotations/instances_train2017.json beside train2017/",
    ),
)
