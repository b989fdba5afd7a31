"""Boxes of one split as arrays: what every format is read into, and what evaluation, checks and conversion read from.

Arrays and not dicts, because a loader process copies whatever Python objects it touches: a million boxes are 70 MB here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

OVERHANG = 2.0
"""Pixels by which a box may reach over the border of its image before it counts as wrong; annotation tools round."""


class Trouble(StrEnum):
    """What can be wrong with a data set, in the words of every message."""

    UNREADABLE = "annotation file cannot be read"
    NO_IMAGES = "no images"
    IMAGE_ID = "image id that is not a whole number from 0 on"
    DUPLICATE_ID = "image id used twice"
    DUPLICATE_FILE = "image file listed twice"
    NO_SIZE = "image without width and height"
    LEAVES = "image file outside the data set"
    TOO_LARGE = "image too large"
    MISSING_FILE = "image file missing"
    BROKEN_FILE = "image file cannot be opened"
    OTHER_SIZE = "image size differs from the annotation"
    UNKNOWN_IMAGE = "box of an image that is not listed"
    UNKNOWN_CLASS = "unknown class"
    NOT_FINITE = "box without four finite numbers"
    INVERTED = "inverted box (negative width or height)"
    EMPTY = "empty box (no width or no height)"
    OUTSIDE = "box outside its image"
    NO_BOX = "annotation without a box"
    VALUE = "value that cannot be taken"
    NORMALISED = "boxes in 0..1 instead of pixels"
    NO_TARGETS = "no boxes to learn from"
    NO_OBJECTS = "no objects to measure on"
    TWO_SPLITS = "image in two splits"
    COPIES = "pictures of one content in two splits, under different names"


EXAMPLES = 5
"""Examples shown of each finding."""


@dataclass(frozen=True)
class Pixels:
    """How image files are read.

    Attributes:
        exif: ``ignore`` reads pixels as stored, ``apply`` as their EXIF orientation shows them.
        max_pixels: Largest image that is opened.
    """

    exif: Literal["ignore", "apply"] = "ignore"
    max_pixels: int = 178_956_970


@dataclass(frozen=True)
class Note:
    """Something that was taken otherwise than it is written, and how often, with the first examples."""

    what: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """One thing wrong in one place, for example ``(Trouble.MISSING_FILE, "000001.jpg")``."""

    trouble: Trouble
    example: str


@dataclass(frozen=True, eq=False)
class Annotations:
    """Images and boxes of one split. Rows of boxes are ordered by image.

    Attributes:
        place: The annotation file or folder as shown in messages.
        classes: Class names in label order.
        files: Image files.
        names: Their names inside the data set, as in the annotation file.
        ids: (I,) image ids.
        sizes: (I, 2) height and width.
        owners: (N,) position of each box's image, not decreasing.
        boxes: (N, 4) left, top, width, height in pixels, as annotated.
        labels: (N,) 0-based class.
        areas: (N,) area of the object: of its mask where the file says so, else of its box.
        ignored: (N,) True for crowds and difficult objects: no training targets, neither right nor wrong in evaluation.
        problems: What was wrong and could not be put into these arrays.
        notes: What was taken otherwise than it is written.
        pixels: How the image files are read.
        folders: Folders that image files must lie in, links followed; none allows any place.
    """

    place: str
    classes: tuple[str, ...]
    files: tuple[str, ...]
    names: tuple[str, ...]
    ids: NDArray[np.int64]
    sizes: NDArray[np.int64]
    owners: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    ignored: NDArray[np.bool_]
    problems: tuple[Problem, ...] = ()
    notes: tuple[Note, ...] = ()
    pixels: Pixels = Pixels()
    folders: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.searchsorted(self.owners, np.arange(len(self) + 1)).astype(np.int64)

    def rows(self, index: int) -> slice:
        """Rows of the boxes of image ``index``."""
        return slice(int(self._starts[index]), int(self._starts[index + 1]))

    def take(self, indices: Sequence[int], place: str) -> Annotations:
        """The same with these images alone, in this order; problems that belong to no image stay behind."""
        every = np.arange(len(self.owners))
        chosen = np.concatenate([every[:0], *(every[self.rows(index)] for index in indices)])
        counts = [self.rows(index).stop - self.rows(index).start for index in indices]
        which = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            place=place,
            files=tuple(self.files[index] for index in indices),
            names=tuple(self.names[index] for index in indices),
            ids=self.ids[which],
            sizes=self.sizes[which],
            owners=np.repeat(np.arange(len(indices), dtype=np.int64), counts),
            boxes=self.boxes[chosen],
            labels=self.labels[chosen],
            areas=self.areas[chosen],
            ignored=self.ignored[chosen],
            problems=(),
            notes=(),
        )

    def corners(self) -> NDArray[np.float64]:
        """Boxes as (N, 4) xyxy."""
        return np.concatenate([self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]], axis=1)

    def overhang(self) -> NDArray[np.float64]:
        """(N,) pixels by which each box reaches over the border of its image, 0 inside."""
        corners, sizes = self.corners(), self.sizes[self.owners]
        over = np.stack([-corners[:, 0], -corners[:, 1], corners[:, 2] - sizes[:, 1], corners[:, 3] - sizes[:, 0]])
        return np.maximum(over.max(axis=0, initial=0), 0)

    def faulty(self) -> dict[Trouble, NDArray[np.bool_]]:
        """Which boxes are wrong, by what is wrong with them; each box is counted once."""
        width, height = self.boxes[:, 2], self.boxes[:, 3]
        finite = np.isfinite(self.boxes).all(axis=1)
        inverted = finite & ((width < 0) | (height < 0))
        empty = finite & ~inverted & ((width == 0) | (height == 0))
        known = (self.sizes[self.owners] > 0).all(axis=1)
        outside = finite & ~inverted & ~empty & known & (self.overhang() > OVERHANG)
        return {Trouble.NOT_FINITE: ~finite, Trouble.INVERTED: inverted, Trouble.EMPTY: empty, Trouble.OUTSIDE: outside}

    def repair(self) -> Annotations:
        """The same with wrong boxes cut at the border of their image, and left out where nothing is left of them."""
        faulty = self.faulty()
        outside = faulty.pop(Trouble.OUTSIDE)
        boxes = self.boxes.copy()
        limits = self.sizes[self.owners][:, ::-1]
        low = np.clip(boxes[:, :2], 0, limits)
        high = np.clip(boxes[:, :2] + boxes[:, 2:], 0, limits)
        boxes[outside] = np.concatenate([low, high - low], axis=1)[outside]
        areas = np.where(outside, np.minimum(self.areas, boxes[:, 2] * boxes[:, 3]), self.areas)
        keep = ~np.any(list(faulty.values()), axis=0) & ~(outside & (boxes[:, 2:] <= 0).any(axis=1))
        changes = {"cut at the border": outside & keep, "left out": ~keep}
        notes = [
            Note(f"boxes {what} by bad_boxes: repair", int(mask.sum()), self.describe(mask))
            for what, mask in changes.items()
            if mask.any()
        ]
        return replace(
            self,
            owners=self.owners[keep],
            boxes=boxes[keep],
            labels=self.labels[keep],
            areas=areas[keep],
            ignored=self.ignored[keep],
            notes=(*self.notes, *notes),
        )

    def describe(self, mask: NDArray[np.bool_]) -> tuple[str, ...]:
        """``name: class at [x, y, w, h] in 640x480`` of the first boxes in ``mask``."""

        def say(row: int) -> str:
            owner = self.owners[row]
            height, width = self.sizes[owner]
            box = ", ".join(f"{value:g}" for value in self.boxes[row])
            label = self.classes[self.labels[row]]
            return f"{self.names[owner]}: {label} at [{box}] (x, y, w, h) in {width}x{height}"

        return tuple(say(int(row)) for row in np.flatnonzero(mask)[:EXAMPLES])

    def coco(self) -> dict[str, Any]:
        """Ground truth in COCO's format; category ids are labels, annotation ids count from 1 (pycocotools reads 0 as none)."""
        images = [
            {"id": int(i), "file_name": name, "height": int(h), "width": int(w)}
            for i, name, (h, w) in zip(self.ids, self.names, self.sizes)
        ]
        columns = (self.ids[self.owners], self.labels, self.boxes, self.areas, self.ignored)
        rows = zip(*(column.tolist() for column in columns))
        annotations = [
            {"id": k, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": int(ignored)}
            for k, (image, label, box, area, ignored) in enumerate(rows, start=1)
        ]
        categories = [{"id": label, "name": name} for label, name in enumerate(self.classes)]
        return {"images": images, "annotations": annotations, "categories": categories}


@dataclass
class AnnotationsBuilder:
    """Collects images and boxes one by one, in any order, and makes :class:`Annotations`."""

    place: str
    classes: tuple[str, ...]
    files: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    pixels: Pixels = Pixels()
    folders: tuple[str, ...] = ()

    def image(self, file: Path, name: str, image_id: int, size: tuple[int, int], written: str = "") -> int:
        """Add an image of ``size`` (height, width), zeros where ``written`` cannot be taken; returns its position."""
        if min(size) <= 0:
            self.problem(Trouble.NO_SIZE, f"{name} ({written})" if written else name)
        self.files.append(str(file))
        self.names.append(name)
        self.ids.append(image_id)
        self.sizes.append(size)
        return len(self.files) - 1

    def box(
        self, owner: int, xywh: tuple[float, float, float, float], label: int, ignored: bool, area: float | None = None
    ) -> None:
        """Add a box to the image at position ``owner``; without ``area`` it is that of the box."""
        if not all(map(math.isfinite, xywh)):
            xywh = (math.nan,) * 4  # one mark for all of them: sums of infinities would warn
        self.owners.append(owner)
        self.boxes.append(xywh)
        self.labels.append(label)
        self.areas.append(xywh[2] * xywh[3] if area is None else area)
        self.ignored.append(ignored)

    def problem(self, trouble: Trouble, example: str) -> None:
        """Note something that cannot be kept."""
        self.problems.append(Problem(trouble, example))

    def note(self, what: str, example: str) -> None:
        """Count something that was taken otherwise than it is written."""
        self.counts[what] += 1
        if len(examples := self.notes.setdefault(what, [])) < EXAMPLES:
            examples.append(example)

    def build(self) -> Annotations:
        """The arrays, boxes ordered by image and otherwise as they were added."""
        owners = np.asarray(self.owners, dtype=np.int64)
        order = np.argsort(owners, kind="stable")
        return Annotations(
            place=self.place,
            classes=self.classes,
            files=tuple(self.files),
            names=tuple(self.names),
            ids=np.asarray(self.ids, dtype=np.int64),
            sizes=np.asarray(self.sizes, dtype=np.int64).reshape(-1, 2),
            owners=owners[order],
            boxes=np.asarray(self.boxes, dtype=np.float64).reshape(-1, 4)[order],
            labels=np.asarray(self.labels, dtype=np.int64)[order],
            areas=np.asarray(self.areas, dtype=np.float64)[order],
            ignored=np.asarray(self.ignored, dtype=np.bool_)[order],
            problems=tuple(self.problems),
            notes=tuple(Note(what, self.counts[what], tuple(examples)) for what, examples in self.notes.items()),
            pixels=self.pixels,
            folders=self.folders,
        )
