"""Image folders of Hugging Face ``datasets``: a ``metadata.jsonl`` beside the images of every split."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from kdflow.data.annotations import Annotations, AnnotationsBuilder, Trouble
from kdflow.data.data_card import CARD, card_classes, card_of
from kdflow.data.files import climbs, expand, read_json_lines
from kdflow.data.formats import DATASETS, SPLITS, DataFormat, FolderOptions, pixels_of
from kdflow.data.images import ImageFaultError, read_header
from kdflow.data.polygons import XYWH
from kdflow.data.values import class_name, file_name, number, shown, truth, whole
from kdflow.data.writing import copy_image, plain_names, write_lines
from kdflow.errors import DataError

FILE = "metadata.jsonl"
LABELS = ("category", "categories", "label", "labels")
"""Names of the column of classes."""
_CROWDS = ("iscrowd", "is_crowd")
_WORDS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}


class HuggingFaceOptions(FolderOptions):
    """Keys of ``format: huggingface``. A split that is not given is looked for under the usual names."""

    root: str = Field(description="folder of the data set; ~ and $VARIABLES are expanded")
    train: str | None = Field(
        default=None, description=f"folder in root with {FILE} and images; none: train, data/train"
    )
    val: str | None = Field(default=None, description="the same; none: validation, val, valid, dev")
    test: str | None = Field(default=None, description="the same; none: test")
    classes: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description=f"label order; none: the class labels in {CARD}, else the names that the data use, in alphabetical order",
    )
    boxes: Literal["xywh", "xyxy"] = Field(
        default="xywh", description="what bbox holds, in pixels: left, top, width, height, or left, top, right, bottom"
    )

    @field_validator("classes")
    @classmethod
    def _once(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in classes or ():
            if class_name(name) is None or (classes or ()).count(name) > 1:
                raise ValueError(f"{shown(name)} is blank, or listed twice")
        return classes


def find_splits(root: Path) -> dict[str, str]:
    """Folders by split; a file in ``root`` itself is the training split."""
    found: dict[str, str] = {}
    for split in SPLITS:
        names = [f"{prefix}{word}" for word in _WORDS[split] for prefix in ("", "data/")]
        folder = next((name for name in names if (root / name / FILE).is_file()), None)
        if folder is not None:
            found[split] = folder
    return found or ({"train": "."} if (root / FILE).is_file() else {})


def folders_of(options: HuggingFaceOptions) -> dict[str, Path]:
    """Folders by split, given or found; raises DataError when there is none, or one that was given lacks its file."""
    root = expand(options.root)
    if not root.is_dir():
        raise DataError(f"data.root: there is no folder {root}")
    given = {split: name for split in SPLITS if (name := getattr(options, split)) is not None}
    for split, name in given.items():
        if climbs(root, name) or not (root / name / FILE).is_file():
            raise DataError(f"data.{split}: there is no {FILE} in {root / name}")
    found = find_splits(root) | given
    if not found:
        raise DataError(
            f"data.root: no {FILE} in {root}; looked for train/{FILE} and the like. Next: name the folder in data.train"
        )
    return {split: root / found[split] for split in SPLITS if split in found}


def class_names(options: HuggingFaceOptions) -> tuple[str, ...]:
    """Class names in label order: those of the bench, of the data card, or that occur; raises DataError where none are named."""
    if options.classes is not None:
        return options.classes
    root = expand(options.root)
    if listed := card_classes(root / CARD):
        return listed
    names: set[str] = set()
    for folder in folders_of(options).values():
        for _, row in read_json_lines(folder / FILE):
            names |= {label for label in _labels(row) if isinstance(label, str)}
    good = sorted(name for name in names if class_name(name) is not None and whole(name) is None)
    if not good:
        raise DataError(
            f"{root}: the classes are numbers without names. Next: list them in data.classes, or as class labels in {CARD}"
        )
    return tuple(good)


def _labels(row: object) -> list[Any]:
    columns = Columns.of(row.get("objects")) if isinstance(row, dict) else None
    return columns.labels if columns is not None else []


def read_split(options: HuggingFaceOptions, split: str) -> Annotations:
    """Annotations of one split. Image ids count from 1 in the order of the file."""
    folder, root = folders_of(options)[split], expand(options.root)
    folders = tuple(dict.fromkeys((str(root), str(folder))))
    builder = AnnotationsBuilder(str(folder / FILE), class_names(options), folders=folders)
    for line, row in read_json_lines(folder / FILE):
        _read_row(builder, folder, row, f"line {line}", options)
    return options.treat(builder.build())


def _read_row(builder: AnnotationsBuilder, folder: Path, row: object, place: str, options: HuggingFaceOptions) -> None:
    name = file_name(row.get("file_name")) if isinstance(row, dict) else None
    if not isinstance(row, dict) or name is None:
        written = row.get("file_name") if isinstance(row, dict) else row
        builder.problem(Trouble.VALUE, f"{shown(written)} as file_name in {place}")
        return
    if climbs(folder, name):
        builder.problem(Trouble.LEAVES, name)
        return
    size, written = _size(row, folder / name, options)
    owner = builder.image(folder / name, name, len(builder.files) + 1, size, written)
    objects = row.get("objects")
    if objects is None:
        builder.note("images without objects in their line", name)
        return
    columns = Columns.of(objects)
    if columns is None:
        expected = f"bbox and one of {', '.join(LABELS)}, lists of one length, are expected"
        builder.problem(Trouble.VALUE, f"objects {shown(objects)} of {name}: {expected}")
        return
    for index in range(len(columns.boxes)):
        _read_object(builder, owner, columns, index, name, options)


def _size(row: Mapping[str, Any], file: Path, options: HuggingFaceOptions) -> tuple[tuple[int, int], str]:
    """(height, width) as written, else as the image itself says; zeros, and what is written, where neither can be taken."""
    sides = row.get("height"), row.get("width")
    if sides == (None, None):
        try:
            return read_header(file, options.pixels).size, ""
        except ImageFaultError as error:
            return (0, 0), str(error)
    height, width = (side if (side := whole(value)) and 0 < side < 2**31 else 0 for value in sides)
    return (height, width), f"height {shown(sides[0])}, width {shown(sides[1])}"


@dataclass(frozen=True)
class Columns:
    """The objects of an image, column by column, as ``datasets`` keeps them.

    Attributes:
        boxes: What stands in ``bbox``.
        labels: What stands in the column of classes.
        crowds: 0 or 1; none where there is no such column.
        areas: Areas; likewise.
    """

    boxes: list[Any]
    labels: list[Any]
    crowds: list[Any]
    areas: list[Any]

    @classmethod
    def of(cls, objects: object) -> Columns | None:
        """The columns, None where boxes or classes are missing or lists differ in length. A list of objects will do as well."""
        if isinstance(objects, list) and all(isinstance(entry, dict) for entry in objects):
            keys = {key for entry in objects for key in entry} or {"bbox", LABELS[0]}
            objects = {key: [entry.get(key) for entry in objects] for key in keys}
        if not isinstance(objects, dict):
            return None
        label = [key for key in LABELS if key in objects]
        crowd = next((key for key in _CROWDS if key in objects), "")
        if len(label) != 1:
            return None
        boxes, labels = objects.get("bbox"), objects[label[0]]
        nothing = [None] * len(boxes) if isinstance(boxes, list) else []
        found = [boxes, labels, objects.get(crowd, nothing), objects.get("area", nothing)]
        if not all(isinstance(column, list) for column in found) or len({len(column) for column in found}) != 1:
            return None
        return cls(*found)


def _read_object(
    builder: AnnotationsBuilder, owner: int, columns: Columns, index: int, name: str, options: HuggingFaceOptions
) -> None:
    written, crowd, area = columns.labels[index], columns.crowds[index], columns.areas[index]
    label = _label(written, builder.classes)
    is_crowd = False if crowd is None else truth(crowd)
    size = number(area)
    if label is None:
        builder.problem(Trouble.UNKNOWN_CLASS, f"{shown(written)} in {name}")
    elif is_crowd is None:
        builder.problem(Trouble.VALUE, f"iscrowd {shown(crowd)} in {name}: 0 or 1 is expected")
    elif area is not None and (size is None or not size >= 0):
        builder.problem(Trouble.VALUE, f"area {shown(area)} in {name}: a number from 0 on is expected")
    elif (xywh := _box(builder, columns.boxes[index], name, options)) is not None:
        builder.box(owner, xywh, label, is_crowd, size)


def _label(written: object, classes: tuple[str, ...]) -> int | None:
    """A name, or a number from 0 on; a name that is all digits is a name."""
    if isinstance(written, str) and written in classes:
        return classes.index(written)
    label = whole(written)
    return label if label is not None and 0 <= label < len(classes) else None


def _box(builder: AnnotationsBuilder, written: object, name: str, options: HuggingFaceOptions) -> XYWH | None:
    values = [number(value) for value in written] if isinstance(written, list) else [None]
    known = [value for value in values if value is not None]
    if len(known) < len(values) or len(known) != 4:
        builder.problem(Trouble.VALUE, f"bbox {shown(written)} in {name}: four numbers are expected")
        return None
    left, top, third, fourth = known
    if options.boxes == "xywh" or not all(map(math.isfinite, known)):
        return left, top, third, fourth
    return left, top, third - left, fourth - top


def write(tables: Mapping[str, Annotations], folder: Path) -> tuple[str, ...]:
    """``train/``, ``validation/`` and ``test/`` with ``metadata.jsonl``, and ``README.md`` with the classes."""
    for split, table in tables.items():
        place = folder / _WORDS[split][0]
        place.mkdir(parents=True)
        lines = []
        for index, (file, name) in enumerate(zip(table.files, plain_names({split: table})[split])):
            copy_image(file, place / name, table.pixels)
            lines.append(json.dumps(_row(table, index, name), ensure_ascii=False))
        write_lines(place / FILE, lines)
    classes = next(iter(tables.values())).classes
    (folder / CARD).write_text(card_of(classes), encoding="utf-8")
    return ()


def _row(table: Annotations, index: int, name: str) -> dict[str, Any]:
    rows = table.rows(index)
    height, width = table.sizes[index].tolist()
    objects = {
        "bbox": table.boxes[rows].tolist(),
        "category": table.labels[rows].tolist(),
        "area": table.areas[rows].tolist(),
        "iscrowd": table.ignored[rows].astype(int).tolist(),
    }
    return {"file_name": name, "width": width, "height": height, "objects": objects}


def find(root: Path) -> dict[str, Any] | None:
    """Options of a folder with a ``metadata.jsonl``, in itself or in folders of the usual names."""
    return {"root": str(root)} if find_splits(root) else None


DATASETS.add(
    "huggingface",
    DataFormat(
        options=HuggingFaceOptions,
        classes=class_names,
        splits=lambda options: tuple(folders_of(options)),
        read=read_split,
        pixels=pixels_of,
        find=find,
        write=write,
        signs=f"{FILE}, here or in train",
        doc=f"image folders of Hugging Face datasets: {FILE} with file_name and objects (bbox, category) beside the images",
    ),
)
