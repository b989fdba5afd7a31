"""Tiny COCO and VOC folders, written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from kdflow.data.formats import DataSource, open_data


def save_image(path: Path, height: int, width: int, seed: int = 0) -> None:
    """Random pixels, which depend on the seed and on the last three parts of the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = crc32("/".join(path.parts[-3:]).encode())
    pixels = np.random.default_rng((seed, name)).integers(1, 256, size=(height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


CATEGORIES = ({"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 90, "name": "bird"})
IMAGES = ((11, "a.png", 20, 30), (5, "b.png", 40, 24), (8, "sub/c.png", 16, 16))  # the last has no boxes
BOXES = (
    {"image_id": 5, "category_id": 3, "bbox": [2.5, 3.0, 10.0, 20.5], "iscrowd": 0, "area": 77.0},
    {"image_id": 11, "category_id": 90, "bbox": [0, 0, 30, 20], "iscrowd": 1, "area": 600},
    {"image_id": 11, "category_id": 7, "bbox": [4, 5, 6, 7], "iscrowd": 0, "area": 42},
)


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., Path]:
    """``write_coco(split, images, boxes, categories)`` adds a split to a COCO folder and returns the folder."""
    root = tmp_path / "coco"

    def write(
        split: str, images: Sequence[Any] = IMAGES, boxes: Sequence[Any] = BOXES, categories: Sequence[Any] = CATEGORIES
    ) -> Path:
        for image_id, name, height, width in images:
            save_image(root / split / name, height, width, seed=abs(image_id) if isinstance(image_id, int) else 0)
        rows = [{"id": i, "file_name": name, "height": h, "width": w} for i, name, h, w in images]
        annotations = [{"id": 100 + k, **box} for k, box in enumerate(boxes)]
        document = {"images": rows, "annotations": annotations, "categories": list(categories)}
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
        return root

    return write


@pytest.fixture
def coco(write_coco: Callable[..., Path]) -> DataSource:
    """A COCO folder with train and val."""
    write_coco("train")
    return open_data("coco", {"root": str(write_coco("val"))})


@pytest.fixture
def write_voc(tmp_path: Path) -> Callable[..., Path]:
    """``write_voc(year, set, {stem: objects})`` adds an image set to a devkit; objects are (name, corners, difficult)."""
    root = tmp_path / "VOCdevkit"

    def write(
        year: str,
        image_set: str,
        images: dict[str, list[tuple[str, tuple[float, ...], int]]],
        size: tuple[int, int] = (20, 30),
    ) -> Path:
        folder = root / year
        for part in ("Annotations", "ImageSets/Main"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for stem, objects in images.items():
            save_image(folder / "JPEGImages" / f"{stem}.jpg", *size)
            text = "".join(
                f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
                + "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners))
                + "</bndbox></object>"
                for name, corners, difficult in objects
            )
            shape = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
            xml = f"<annotation><filename>{stem}.jpg</filename>{shape}{text}</annotation>"
            (folder / "Annotations" / f"{stem}.xml").write_text(xml)
        (folder / "ImageSets" / "Main" / f"{image_set}.txt").write_text("".join(f"{stem}\n" for stem in images))
        return root

    return write


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh cache folder."""
    monkeypatch.setenv("KDFLOW_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
