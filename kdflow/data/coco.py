"""COCO folders: a JSON file and an image folder per split."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from kdflow.data.annotations import Annotations, AnnotationsBuilder, Trouble
from kdflow.data.files import UnreadableFileError, climbs, expand, read_json
from kdflow.data.formats import DATASETS, SPLITS, DataFormat, FolderOptions, FormatOptions, pixels_of
from kdflow.data.polygons import XYWH, box_of
from kdflow.data.values import class_name, file_name, number, shown, truth, whole
from kdflow.data.writing import copy_image, plain_names
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
    """Class names of the validation file (else the first file: the smallest to read), in the order of their ids."""
    files = split_files(options)
    chosen = files.get("val") or next(iter(files.values()))
    path = expand(options.root) / chosen.annotations
    return tuple(_categories(path, load_json(path)).values())


def read_split(options: CocoOptions, split: str) -> Annotations:
    """Annotations of one split; labels follow :func:`class_names`, matched by name."""
    files, root = split_files(options)[split], expand(options.root)
    return options.treat(read_file(root / files.annotations, root / files.images, class_names(options), root))


def load_json(path: Path) -> dict[str, Any]:
    """A COCO document; raises DataError when it is missing, no JSON, or lacks a list."""
    document = read_json(path)
    if not isinstance(document, dict):
        raise UnreadableFileError(path, "not one object with images, annotations and categories")
    lacking = [key for key in ("images", "annotations", "categories") if not isinstance(document.get(key), list)]
    if lacking:
        raise UnreadableFileError(path, f"the list {' and '.join(lacking)} is missing")
    return document


def _categories(path: Path, document: Mapping[str, Any]) -> dict[int, str]:
    """Category id -> name, in the order of the ids: the label order."""
    rows = document["categories"]
    if not rows:
        raise UnreadableFileError(path, "categories is empty; every entry of it needs an id and a name")
    names: dict[int, str] = {}
    for row in rows:
        key, name = (whole(row.get("id")), class_name(row.get("name"))) if isinstance(row, dict) else (None, None)
        if key is None or name is None:
            raise UnreadableFileError(
                path,
                f"every entry of categories needs an id and a name (a whole number, and text); here is {shown(row)}",
            )
        if key in names or name in names.values():
            twice = f"id {key}" if key in names else name
            raise DataError(f"{path}  categories: ids and names must differ from each other (twice: {twice})")
        names[key] = name
    return dict(sorted(names.items()))


def read_file(path: Path, images: Path, classes: tuple[str, ...], root: Path | None = None) -> Annotations:
    """A COCO file as arrays.

    Args:
        path: Annotation file.
        images: Folder that its file names are relative to.
        classes: Label order; categories of the file are matched by name.
        root: Folder of the data set, where links may lead; none: the image folder.

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
    folders = tuple(dict.fromkeys(str(folder) for folder in (images, root) if folder is not None))
    builder = AnnotationsBuilder(str(path), classes, folders=folders)
    positions = _read_images(builder, document["images"], images)
    labels = {key: classes.index(name) for key, name in categories.items()}
    for row in document["annotations"]:
        _read_object(builder, row, positions, labels)
    return builder.build()


def _read_images(builder: AnnotationsBuilder, rows: list[Any], folder: Path) -> dict[int, int | None]:
    """Add the images; returns image id -> position, None for an image that is refused: its boxes are not told of again."""
    positions: dict[int, int | None] = {}
    for row in rows:
        if not isinstance(row, dict):
            builder.problem(Trouble.VALUE, f"{shown(row)} as an entry of images")
            continue
        key, name = whole(row.get("id")), file_name(row.get("file_name"))
        said = name or shown(row.get("file_name"))
        if key is None or key < 0:
            builder.problem(Trouble.IMAGE_ID, f"{shown(row.get('id'))} ({said})")
        elif key in positions:
            before = positions[key]
            first = builder.names[before] if before is not None else "an image that is refused"
            builder.problem(Trouble.DUPLICATE_ID, f"{key} ({first} and {said})")
        elif name is None:
            builder.problem(Trouble.VALUE, f"file_name {said} of image {key}")
            positions[key] = None
        elif climbs(folder, name):
            builder.problem(Trouble.LEAVES, name)
            positions[key] = None
        else:
            sides = (row.get("height"), row.get("width"))
            positions[key] = builder.image(folder / name, name, key, _size(sides), _as_written(sides))
    return positions


def _size(sides: tuple[object, object]) -> tuple[int, int]:
    """(height, width), zero where it is no number of pixels."""
    height, width = (side if (side := whole(written)) and 0 < side < 2**31 else 0 for written in sides)
    return height, width


def _as_written(sides: tuple[object, object]) -> str:
    return "" if sides == (None, None) else f"height {shown(sides[0])}, width {shown(sides[1])}"


def _read_object(
    builder: AnnotationsBuilder, row: object, positions: Mapping[int, int | None], labels: Mapping[int, int]
) -> None:
    if not isinstance(row, dict):
        builder.problem(Trouble.VALUE, f"{shown(row)} as an entry of annotations")
        return
    image, category = whole(row.get("image_id")), whole(row.get("category_id"))
    if image is None or image not in positions:
        builder.problem(
            Trouble.UNKNOWN_IMAGE, f"image_id {shown(row.get('image_id'))} of annotation {shown(row.get('id'))}"
        )
        return
    owner = positions[image]
    if owner is None:
        return
    name = builder.names[owner]
    if category is None or category not in labels:
        builder.problem(Trouble.UNKNOWN_CLASS, f"category_id {shown(row.get('category_id'))} in {name}")
        return
    if (xywh := _box(builder, row, name)) is None:
        return
    crowd, area = row.get("iscrowd"), row.get("area")
    is_crowd = False if crowd is None else truth(crowd)
    size = number(area)
    if is_crowd is None:
        builder.problem(Trouble.VALUE, f"iscrowd {shown(crowd)} in {name}: 0 or 1 is expected")
    elif area is not None and (size is None or not size >= 0):
        builder.problem(Trouble.VALUE, f"area {shown(area)} in {name}: a number from 0 on is expected")
    else:
        builder.box(owner, xywh, labels[category], is_crowd, size)


def _box(builder: AnnotationsBuilder, row: Mapping[str, Any], name: str) -> XYWH | None:
    """The box as written, else that of the polygons; None after noting what is wrong."""
    written = row.get("bbox")
    if written is None or written == []:
        found = box_of(row.get("segmentation"))
        if found is None:
            lacks = "no bbox" if "segmentation" not in row else f"no bbox, segmentation {shown(row['segmentation'])}"
            builder.problem(Trouble.NO_BOX, f"annotation {shown(row.get('id'))} of {name} has {lacks}")
        else:
            builder.note("boxes taken from polygons (no bbox is written)", name)
        return found
    numbers = [number(value) for value in written] if isinstance(written, list) else [None]
    known = [value for value in numbers if value is not None]
    if len(known) < len(numbers):
        builder.problem(Trouble.VALUE, f"bbox {shown(written)} in {name}: [x, y, width, height] is expected")
        return None
    x, y, width, height = known if len(known) == 4 else (math.nan,) * 4
    return x, y, width, height


def write(tables: Mapping[str, Annotations], folder: Path) -> tuple[str, ...]:
    """``annotations/instances_<split>.json`` and ``<split>/``; image ids stay, category ids count from 1.

    Difficult objects become crowds, the only boxes that COCO's evaluation leaves out of account.
    """
    (folder / "annotations").mkdir(parents=True)
    for split, table in tables.items():
        (folder / split).mkdir()
        document, names = table.coco(), plain_names({split: table})[split]
        for image, name, file in zip(document["images"], names, table.files):
            copy_image(file, folder / split / name, table.pixels)
            image["file_name"] = name
        for row in (*document["annotations"], *document["categories"]):
            key = "category_id" if "category_id" in row else "id"
            row[key] += 1
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document), encoding="utf-8")
    return ()


def find(root: Path) -> dict[str, Any] | None:
    """Options of a folder with annotation files under the usual names."""
    return {"root": str(root)} if find_splits(root) else None


DATASETS.add(
    "coco",
    DataFormat(
        options=CocoOptions,
        classes=class_names,
        splits=lambda options: tuple(split_files(options)),
        read=read_split,
        pixels=pixels_of,
        find=find,
        write=write,
        signs="annotations/instances_train.json, train/_annotations.coco.json or alike",
        doc="COCO JSON folders: annotations/instances_train2017.json beside train2017/",
    ),
)
