"""Writing a data set as a COCO or a VOC folder: image files are copied as they are, boxes are written anew."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np

from kdflow.data.annotations import Annotations, Pixels
from kdflow.data.files import expand
from kdflow.data.findings import raise_faults
from kdflow.data.folders import open_folder
from kdflow.data.formats import DataSource
from kdflow.data.images import read_header, read_pixels
from kdflow.data.look import look
from kdflow.data.values import shown, unwritable
from kdflow.data.voc import CLASS_FILE
from kdflow.errors import DataError, UsageError


def convert(source: DataSource | str | Path, target: str | Path, to: Literal["coco", "voc"]) -> Path:
    """Write every split of ``source`` into the new folder ``target``; returns it.

    Args:
        source: An opened data set, or a COCO or VOC folder.
        target: A folder that does not exist yet, or is empty.
        to: Format to write.

    Raises:
        DataError: When the source is no data set, has faults or files that are no images, or names that cannot be written.
        UsageError: When the target holds files.
    """
    opened = source if isinstance(source, DataSource) else open_folder(source)
    folder = expand(target)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty. Next: name a new folder")
    tables = {name: opened.splits[name].annotations for name in opened.splits.existing}
    raise_faults([finding for table in tables.values() for finding in look(table, range(len(table)), decode=False)])
    if to == "voc":
        _check_names(opened.classes)
    (to_coco if to == "coco" else to_voc)(tables, folder)
    return folder


def to_coco(tables: Mapping[str, Annotations], folder: Path) -> None:
    """``annotations/instances_<split>.json`` and ``<split>/``; image ids stay, category ids count from 1.

    Difficult objects become crowds, the only boxes that COCO's evaluation leaves out of account.
    """
    (folder / "annotations").mkdir(parents=True)
    for split, table in tables.items():
        (folder / split).mkdir()
        document, names = table.coco(), _plain_names({split: table})[split]
        for image, name, file in zip(document["images"], names, table.files):
            _copy(file, folder / split / name, table.pixels)
            image["file_name"] = name
        for row in (*document["annotations"], *document["categories"]):
            key = "category_id" if "category_id" in row else "id"
            row[key] += 1
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document), encoding="utf-8")


def to_voc(tables: Mapping[str, Annotations], folder: Path) -> None:
    """``Annotations/``, ``JPEGImages/``, ``ImageSets/Main/<split>.txt`` and ``classes.txt``.

    VOC counts whole pixels from 1, both corners inclusive: edges are rounded. Crowds become difficult objects.
    """
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for split, names in _plain_names(tables).items():
        table, stems = tables[split], [Path(name).stem for name in names]
        for index, (name, stem, file) in enumerate(zip(names, stems, table.files)):
            _copy(file, folder / "JPEGImages" / name, table.pixels)
            tree = ElementTree.ElementTree(_voc_tree(table, index, name))
            ElementTree.indent(tree)
            tree.write(folder / "Annotations" / f"{stem}.xml", encoding="utf-8")
        _write_lines(folder / "ImageSets" / "Main" / f"{split}.txt", stems)
        _write_lines(folder / CLASS_FILE, table.classes)


def _copy(file: str, target: Path, pixels: Pixels) -> None:
    """The file as it is; where ``exif: apply`` turns its pixels, they are written turned, without loss."""
    if _is_turned(file, pixels):
        read_pixels(file, pixels).save(target, "PNG")
    else:
        shutil.copyfile(file, target)


def _is_turned(file: str, pixels: Pixels) -> bool:
    return pixels.exif == "apply" and read_header(file, pixels).orientation != 1


def _check_names(classes: Iterable[str]) -> None:
    """Refuse classes that would be read back otherwise."""
    bad = [name for name in classes if name != name.strip() or unwritable(name)]
    if bad:
        listed = ", ".join(map(shown, bad))
        raise DataError(f"class names that a VOC folder cannot hold: {listed}. Next: rename them, or write COCO")


def _write_lines(file: Path, lines: Iterable[str]) -> None:
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _voc_tree(table: Annotations, index: int, name: str) -> ElementTree.Element:
    height, width = table.sizes[index].tolist()
    root = ElementTree.Element("annotation")
    _add(root, "filename", name)
    size = ElementTree.SubElement(root, "size")
    for key, value in {"width": width, "height": height, "depth": 3}.items():
        _add(size, key, value)
    rows = table.rows(index)
    edges = np.rint(table.corners()[rows]).clip(0, (width, height, width, height)).astype(int).tolist()
    for label, ignored, (left, top, right, bottom) in zip(table.labels[rows], table.ignored[rows], edges):
        item = ElementTree.SubElement(root, "object")
        _add(item, "name", table.classes[label])
        _add(item, "difficult", int(ignored))
        corners = ElementTree.SubElement(item, "bndbox")
        first_x, first_y = min(left + 1, width), min(top + 1, height)
        values = {"xmin": first_x, "ymin": first_y, "xmax": max(right, first_x), "ymax": max(bottom, first_y)}
        for key, value in values.items():
            _add(corners, key, value)
    return root


def _add(parent: ElementTree.Element, tag: str, value: object) -> None:
    ElementTree.SubElement(parent, tag).text = str(value)


def _plain_names(tables: Mapping[str, Annotations]) -> dict[str, list[str]]:
    """File names without folders, unique among all tables: where stems collide, split and image id go in front."""
    files = {split: [_written_name(file, table.pixels) for file in table.files] for split, table in tables.items()}
    counts = Counter(Path(name).stem for names in files.values() for name in names)
    if all(count == 1 for count in counts.values()):
        return files
    return {
        split: [f"{split}_{key}_{name}" for name, key in zip(names, tables[split].ids.tolist())]
        for split, names in files.items()
    }


def _written_name(file: str, pixels: Pixels) -> str:
    path = Path(file)
    return f"{path.stem}.png" if _is_turned(file, pixels) else path.name
