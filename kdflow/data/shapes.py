"""The default data set: drawn scenes, written once as a COCO folder of real image files and read back like any other.

The folder lies in ``$KDFLOW_HOME`` (default ``~/.cache/kdflow``) under a hash of the options and the drawing's version.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from kdflow.data.annotations import Annotations
from kdflow.data.coco import read_file
from kdflow.data.drawing import SHAPES, Scene, Style, draw
from kdflow.data.formats import DATASETS, SPLITS, DataFormat, FormatOptions
from kdflow.errors import DataError, choices
from kdflow.folders import home

VERSION = 1
"""Raised whenever the drawing changes: old folders are then not used again."""

_LOG = logging.getLogger(__name__)


class ImageCounts(FormatOptions):
    """Images per split."""

    train: int = Field(default=2000, gt=0)
    val: int = Field(default=400, gt=0)
    test: int = Field(default=400, gt=0)


class ShapesOptions(FormatOptions):
    """Keys of ``format: shapes``. Ranges are [low, high]."""

    classes: tuple[str, ...] = Field(default=tuple(SHAPES), min_length=1, description="which shapes, in label order")
    images: ImageCounts = ImageCounts()
    pixels: int = Field(default=128, ge=32, description="longest side of an image")
    ragged: float = Field(default=0.0, ge=0, le=0.75, description="share by which a side may be shorter; 0: all square")
    objects: tuple[int, int] = Field(default=(1, 8), description="objects per image, before those that find no place")
    object_size: tuple[float, float] = Field(default=(0.1, 0.6), description="diameter, as a share of the shorter side")
    contrast: tuple[float, float] = Field(
        default=(0.12, 0.5), description="distance of the fill from what lies beneath"
    )
    occlusion: float = Field(default=0.5, ge=0, le=0.9, description="largest hidden share of an object")
    clutter: float = Field(default=0.6, ge=0, le=3, description="textures, other shapes, scribbles; 0: none")
    noise: float = Field(default=0.04, ge=0, le=1, description="standard deviation of the pixel noise, images in 0..1")
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _sensible(self) -> ShapesOptions:
        for name in self.classes:
            if name not in SHAPES:
                raise ValueError(f'no shape "{name}".{choices(name, SHAPES)}')
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("a class is listed twice")
        for key in ("objects", "object_size", "contrast"):
            low, high = getattr(self, key)
            if not 0 <= low <= high:
                raise ValueError(f"{key} must be [low, high] with 0 <= low <= high")
        if not 0.03 <= self.object_size[0] <= self.object_size[1] <= 1.5:
            raise ValueError("object_size must lie within 0.03 and 1.5 of the shorter side")
        return self

    @property
    def style(self) -> Style:
        """The part that the drawing needs."""
        return Style(self.objects, self.object_size, self.contrast, self.occlusion, self.clutter, self.noise)


def cache_folder(options: ShapesOptions) -> Path:
    """Where the set of these options lies, drawn or not."""
    text = json.dumps({"version": VERSION, **options.model_dump(mode="json")}, sort_keys=True)
    return home() / "data" / f"shapes-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def scene(options: ShapesOptions, split: str, index: int) -> Scene:
    """Scene ``index`` of a split: a function of the seed and these two, whatever the number of images."""
    rng = np.random.default_rng((options.seed, SPLITS.index(split), index))
    height, width = (round(options.pixels * (1 - options.ragged * rng.uniform())) for _ in "hw")
    return draw(rng, options.classes, height, width, options.style)


def write_shapes(folder: Path, options: ShapesOptions) -> None:
    """Draw the set into ``folder``: for each split ``train/000001.jpg`` ... and ``annotations/instances_train.json``."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        (folder / split).mkdir()
        document = _write_split(folder / split, options, split)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document), encoding="utf-8")


def _write_split(folder: Path, options: ShapesOptions, split: str) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(getattr(options.images, split)):
        drawn, name = scene(options, split, index), f"{index + 1:06d}.jpg"
        Image.fromarray(drawn.image).save(folder / name, quality=92, subsampling=0)
        height, width = drawn.image.shape[:2]
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        for label, (left, top, right, bottom), mask in zip(drawn.labels, drawn.boxes, drawn.masks):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": label + 1,
                    "iscrowd": 0,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(mask.sum()),
                }
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(options.classes)]
    info = {"description": "kdflow shapes", "version": VERSION, "options": options.model_dump(mode="json")}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def drawn_folder(options: ShapesOptions) -> Path:
    """The folder of the set, drawn now if it does not exist; another process that draws the same does no harm."""
    folder = cache_folder(options)
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        reason = f"{folder.parent} cannot be written ({error.strerror})"
        raise DataError(f"{reason}. Next: set KDFLOW_HOME to a folder of yours") from None
    try:
        _LOG.info("drawing %d images into %s", sum(options.images.model_dump().values()), folder)
        write_shapes(draft, options)
        draft.chmod(0o755)
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process finished first, and its folder holds the same
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def read_split(options: ShapesOptions, split: str) -> Annotations:
    """Annotations of one split, drawn first if need be."""
    folder = drawn_folder(options)
    return read_file(folder / "annotations" / f"instances_{split}.json", folder / split, options.classes)


DATASETS.add(
    "shapes",
    DataFormat(
        options=ShapesOptions,
        classes=lambda options: options.classes,
        splits=lambda options: SPLITS,
        read=read_split,
        doc="drawn scenes of geometric shapes, the default: nothing to download",
        pixels=lambda options: cache_folder(options).name,
    ),
)
