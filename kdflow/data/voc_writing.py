"""Writing a VOC folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from kdflow.data.annotations import Annotations
from kdflow.data.values import shown, unwritable
from kdflow.data.writing import copy_image, plain_names, write_lines
from kdflow.errors import DataError

CLASS_FILE = "classes.txt"
"""Optional file in the root: class names, one per line. VOC folders name their classes nowhere else."""


def write(tables: Mapping[str, Annotations], folder: Path) -> tuple[str, ...]:
    """``Annotations/``, ``JPEGImages/``, ``ImageSets/Main/<split>.txt`` and ``classes.txt``.

    VOC counts whole pixels from 1, both corners inclusive: edges are rounded. Crowds become difficult objects.
    """
    _check_names(next(iter(tables.values())).classes)
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for split, names in plain_names(tables).items():
        table, stems = tables[split], [Path(name).stem for name in names]
        for index, (name, stem, file) in enumerate(zip(names, stems, table.files)):
            copy_image(file, folder / "JPEGImages" / name, table.pixels)
            tree = ElementTree.ElementTree(_voc_tree(table, index, name))
            ElementTree.indent(tree)
            tree.write(folder / "Annotations" / f"{stem}.xml", encoding="utf-8")
        write_lines(folder / "ImageSets" / "Main" / f"{split}.txt", stems)
        write_lines(folder / CLASS_FILE, table.classes)
    return ()


def _check_names(classes: Iterable[str]) -> None:
    """Refuse classes that would be read back otherwise."""
    bad = [name for name in classes if name != name.strip() or unwritable(name)]
    if bad:
        listed = ", ".join(map(shown, bad))
        raise DataError(f"class names that a VOC folder cannot hold: {listed}. Next: rename them, or write COCO")


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
