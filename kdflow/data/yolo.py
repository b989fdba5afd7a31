"""YOLO folders: ``data.yaml``, images, and beside them a text file per image with normalised boxes or polygons."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from kdflow.data.annotations import Annotations, AnnotationsBuilder, Trouble
from kdflow.data.files import LIST_BYTES, UnreadableFileError, climbs, decode, expand, read_bytes, read_lines
from kdflow.data.formats import DATASETS, SPLITS, DataFormat, FolderOptions, pixels_of
from kdflow.data.images import SUFFIXES, USUAL, ImageFaultError, read_header
from kdflow.data.polygons import XYWH
from kdflow.data.values import class_name, file_name, number, shown, whole
from kdflow.data.writing import copy_image, plain_names, write_lines
from kdflow.errors import DataError

FILE = "data.yaml"
_BLANK_LABELS = "images without a label file, taken as images without objects"


class YoloOptions(FolderOptions):
    """Keys of ``format: yolo``. Splits and class names are those of the YAML file."""

    root: str = Field(description="folder of the data set; ~ and $VARIABLES are expanded")
    file: str = Field(default=FILE, description="YAML file in root with train, val, test and names")


@dataclass(frozen=True)
class YoloFile:
    """What a ``data.yaml`` says.

    Attributes:
        path: The file.
        base: Folder that its splits are relative to.
        classes: Class names in label order.
        splits: Split -> image folders, or text files that list images.
    """

    path: Path
    base: Path
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Path, ...]]


def read_yaml(options: YoloOptions) -> YoloFile:
    """The YAML file of a data set; raises DataError for one that cannot be taken as it is."""
    root = _root(options)
    path = root / options.file
    try:
        content = yaml.safe_load(decode(path, read_bytes(path, LIST_BYTES)))
    except UnreadableFileError:
        raise
    except Exception as error:  # PyYAML's constructors raise whatever a broken value makes them raise
        words = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableFileError(path, f"not YAML ({words[:200]})") from None
    if not isinstance(content, dict):
        raise UnreadableFileError(path, "not a mapping with train, val and names")
    if "kpt_shape" in content:
        raise UnreadableFileError(path, "kpt_shape: labels with keypoints are not read. Next: write boxes only")
    base = _base(root, content.get("path"))
    splits = {split: _entries(path, root, base, split, content.get(split)) for split in SPLITS}
    found = {split: entries for split, entries in splits.items() if entries}
    if not found:
        raise UnreadableFileError(path, "it names no train, val or test")
    return YoloFile(path, base, _classes(path, content), found)


def _root(options: YoloOptions) -> Path:
    return expand(options.root).absolute()


def _base(root: Path, written: object) -> Path:
    """``path:`` where it names a folder inside root; paths of another machine, as many files have, mean root itself."""
    inside = (
        isinstance(written, str) and "\0" not in written and not os.path.isabs(written) and not climbs(root, written)
    )
    return root / str(written) if inside and (root / str(written)).is_dir() else root


def _entries(path: Path, root: Path, base: Path, split: str, written: object) -> tuple[Path, ...]:
    entries = written if isinstance(written, list) else [] if written in (None, "") else [written]
    return tuple(_entry(path, root, base, split, entry) for entry in entries)


def _entry(path: Path, root: Path, base: Path, split: str, written: object) -> Path:
    """One image folder or list; ``../train/images`` is also looked for inside, as exporters mean it."""
    name = file_name(written)
    if name is None:
        raise UnreadableFileError(path, f"{split}: a folder is expected, here is {_scalar(written)}")
    candidates = [base / name, base / name.removeprefix("../")]
    existing = [c for c in candidates if not climbs(root, str(c)) and (c.is_dir() or c.is_file())]
    if not existing:
        where = "leads out of the data set" if climbs(root, str(candidates[-1])) else f"there is no {candidates[-1]}"
        raise DataError(f"{path}  {split}: {shown(name)}: {where}. Next: write a folder of images inside {root}")
    return existing[0]


def _classes(path: Path, content: Mapping[Any, Any]) -> tuple[str, ...]:
    """Names by label: a list, or a mapping from 0 on without gaps."""
    written, count = content.get("names"), content.get("nc")
    if isinstance(written, dict):
        keys = [whole(key) for key in written]
        if sorted(key if key is not None else -1 for key in keys) != list(range(len(keys))):
            raise UnreadableFileError(path, "names: the keys must be the labels, 0, 1, 2 and so on")
        written = [name for _, name in sorted(zip(keys, written.values()), key=lambda pair: pair[0] or 0)]
    if not isinstance(written, list) or not written:
        raise UnreadableFileError(path, "names: a list of class names is expected")
    names = [name for entry in written if (name := class_name(entry)) is not None]
    if len(names) < len(written):
        wrong = next(entry for entry in written if class_name(entry) is None)
        raise UnreadableFileError(path, f"names: {_scalar(wrong)} is no text. Next: put it into quotes")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UnreadableFileError(path, f"names: {', '.join(twice)} stands twice")
    if count is not None and whole(count) != len(names):
        raise UnreadableFileError(path, f"nc: {_scalar(count)}, but names has {len(names)}")
    return tuple(names)


def _scalar(value: object) -> str:
    """A value as written; only the type of nested ones, which may refer to each other without end."""
    return shown(value) if value is None or isinstance(value, (str, int, float, bool)) else f"a {type(value).__name__}"


def class_names(options: YoloOptions) -> tuple[str, ...]:
    """Class names in label order."""
    return read_yaml(options).classes


def split_names(options: YoloOptions) -> tuple[str, ...]:
    """Splits that the YAML file names."""
    return tuple(read_yaml(options).splits)


def read_split(options: YoloOptions, split: str) -> Annotations:
    """Annotations of one split. Image ids count from 1, in the order of the lists or the sorted file names."""
    file, root = read_yaml(options), _root(options)
    entries = file.splits.get(split, ())
    folders = tuple(dict.fromkeys(str(folder) for folder in (root, *entries) if folder.is_dir()))
    builder = AnnotationsBuilder(f"{file.path} ({split})", file.classes, folders=folders)
    for entry in entries:
        labels = LabelFiles(root)
        images = _images_in(entry) if entry.is_dir() else _listed(builder, file.base, root, entry)
        for image in images:
            _read_image(builder, root, image, options, labels)
        for name in labels.unused() if entry.is_dir() else ():
            builder.note("label files without an image, passed over", name)
    return options.treat(builder.build())


def _images_in(folder: Path) -> list[Path]:
    """Image files below a folder, links to folders not followed."""
    found = [Path(place) / name for place, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES)


def _listed(builder: AnnotationsBuilder, base: Path, root: Path, file: Path) -> list[Path]:
    """Images that a text file lists, one path a line, relative to the data set."""
    found = []
    for line in map(str.strip, read_lines(file)):
        if file_name(line) is None:
            if line:
                builder.problem(Trouble.VALUE, f"{shown(line)} in {file.name}")
        elif climbs(root, str(base / line)):
            builder.problem(Trouble.LEAVES, line)
        else:
            found.append(base / line)
    return found


def label_file(image: Path, root: Path) -> Path:
    """``labels/`` in place of the last ``images/`` of the path below ``root``, and the ending ``.txt``."""
    parts = list(image.parts)
    for place in reversed(range(len(root.parts), len(parts) - 1)):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


class LabelFiles:
    """Label files of images; every folder is listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._unused: dict[Path, set[str]] = {}

    def of(self, image: Path) -> Path | None:
        """The label file of an image, None where there is none."""
        file = label_file(image, self._root)
        if file.parent not in self._unused:
            names = os.listdir(file.parent) if file.parent.is_dir() else []
            self._unused[file.parent] = {name for name in names if name.endswith(".txt") and name != "classes.txt"}
        if file.name not in self._unused[file.parent]:
            return file if file.is_file() else None
        self._unused[file.parent].remove(file.name)
        return file

    def unused(self) -> list[str]:
        """Names of label files that no image has asked for."""
        return sorted(name for names in self._unused.values() for name in names)


def _read_image(builder: AnnotationsBuilder, root: Path, image: Path, options: YoloOptions, files: LabelFiles) -> None:
    name = str(image.relative_to(root)) if image.is_relative_to(root) else str(image)
    if file_name(name) is None:
        builder.problem(Trouble.VALUE, f"the file name {shown(name)}")
        return
    try:
        size, written = read_header(image, options.pixels).size, ""
    except ImageFaultError as error:
        size, written = (0, 0), str(error)
    owner = builder.image(image, name, len(builder.files) + 1, size, written)
    labels = files.of(image)
    if labels is None:
        builder.note(_BLANK_LABELS, name)
        return
    try:
        lines = read_lines(labels)
    except UnreadableFileError as error:
        builder.problem(Trouble.UNREADABLE, f"{labels.name} ({error.reason})")
        return
    for line, text in enumerate(lines, start=1):
        if text.strip():
            _read_line(builder, owner, size, text.split(), f"{labels.name}, line {line}")


def _read_line(builder: AnnotationsBuilder, owner: int, size: tuple[int, int], words: list[str], place: str) -> None:
    """``class cx cy w h``, or ``class x y x y x y ...``: the corners of a polygon, of which the box is taken."""
    label, values = whole(words[0]), [number(word) for word in words[1:]]
    known = [value for value in values if value is not None]
    if label is None or not 0 <= label < len(builder.classes):
        builder.problem(Trouble.UNKNOWN_CLASS, f"{shown(words[0])} in {place}")
    elif len(known) < len(values) or not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
        expected = "four numbers, or the corners of a polygon, behind the class"
        builder.problem(Trouble.VALUE, f"{shown(' '.join(words))} in {place}: {expected}")
    else:
        if len(known) > 4:
            builder.note("boxes taken from polygons", place)
        builder.box(owner, _in_pixels(known, size), label, ignored=False)


def _in_pixels(values: list[float], size: tuple[int, int]) -> XYWH:
    """Left, top, width, height in pixels of normalised values."""
    height, width = size
    if len(values) == 4:
        cx, cy, w, h = values
        return (cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height
    if any(map(math.isnan, values)):
        return (math.nan,) * 4
    xs, ys = values[::2], values[1::2]
    left, top = min(xs) * width, min(ys) * height
    return left, top, max(xs) * width - left, max(ys) * height - top


def find(root: Path) -> dict[str, Any] | None:
    """Options of a folder with a ``data.yaml``."""
    return {"root": str(root)} if (root / FILE).is_file() else None


def write(tables: Mapping[str, Annotations], folder: Path) -> tuple[str, ...]:
    """``data.yaml``, ``images/<split>/`` and ``labels/<split>/``; crowds and difficult objects are left out, and counted."""
    left_out = 0
    for split, table in tables.items():
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for index, (file, name) in enumerate(zip(table.files, plain_names({split: table})[split])):
            image = folder / "images" / split / _with_ending(file, name, table)
            copy_image(file, image, table.pixels)
            write_lines(label_file(image, folder), _label_lines(table, index))
        left_out += int(table.ignored.sum())
    classes = next(iter(tables.values())).classes
    content = {**{split: f"images/{split}" for split in tables}, "nc": len(classes), "names": dict(enumerate(classes))}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / FILE).write_text(text, encoding="utf-8")
    return (
        (f"{left_out} crowds and difficult objects were left out: a YOLO folder cannot mark them",) if left_out else ()
    )


def _with_ending(file: str, name: str, table: Annotations) -> str:
    """Images are found by their ending: where a file has none, that of its format is added."""
    if Path(name).suffix.lower() in SUFFIXES:
        return name
    kind = read_header(file, table.pixels).format
    return name + USUAL.get(kind, f".{kind.lower()}")


def _label_lines(table: Annotations, index: int) -> list[str]:
    rows = table.rows(index)
    height, width = table.sizes[index].tolist()
    lines = []
    for (x, y, w, h), label, ignored in zip(table.boxes[rows].tolist(), table.labels[rows], table.ignored[rows]):
        shares = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
        if not ignored:
            lines.append(" ".join([str(label), *(f"{share:.12g}" for share in shares)]))
    return lines


DATASETS.add(
    "yolo",
    DataFormat(
        options=YoloOptions,
        classes=class_names,
        splits=split_names,
        read=read_split,
        pixels=pixels_of,
        find=find,
        write=write,
        signs=FILE,
        doc="YOLO folders: data.yaml, images/train/ and labels/train/ (boxes; polygons are read as boxes)",
    ),
)
