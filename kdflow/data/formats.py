"""Data formats by name, and a data set opened from one: class names first, then splits as they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdflow.data.annotations import Annotations, Pixels
from kdflow.data.dataset import DetectionSet
from kdflow.data.findings import faults_of, raise_faults
from kdflow.errors import DataError, UsageError, choices
from kdflow.registry import Registry

SPLITS = ("train", "val", "test")
SAMPLED = 32
"""Image files of a split whose bytes are part of its fingerprint."""


class FormatOptions(BaseModel):
    """Keys of a bench's ``data`` that belong to a format; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HoldOut(FormatOptions):
    """Shares of the training images that are held out for other splits; 0 for none."""

    val: float = Field(default=0.0, ge=0, lt=1)
    test: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _some_left(self) -> HoldOut:
        if not 0 < self.val + self.test < 1:
            raise ValueError("val and test together must lie between 0 and 1")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Share by split, those above 0."""
        return {split: share for split, share in (("val", self.val), ("test", self.test)) if share}


class FolderOptions(FormatOptions):
    """Keys of the formats that read a user's own folder."""

    bad_boxes: Literal["stop", "repair"] = Field(
        default="stop",
        description="stop: a box that is empty, inverted, not finite or outside its image ends the run; "
        "repair: such boxes are cut at the border, and left out where nothing is left",
    )
    exif: Literal["ignore", "apply"] = Field(
        default="ignore",
        description="what the annotations were drawn on. ignore: pixels as stored; apply: pixels as their EXIF orientation "
        "shows them; width, height and boxes are taken as written either way",
    )
    hold_out: HoldOut | None = Field(
        default=None,
        description="splits that the data set does not have, as shares of its training images: {val: 0.15, test: 0.15}. An image "
        "belongs to one by a hash of its name, so the same ones are held out everywhere and always",
    )
    max_pixels: int = Field(
        default=Pixels().max_pixels, gt=0, description="largest image that is opened, width times height"
    )

    @property
    def pixels(self) -> Pixels:
        """How image files are read."""
        return Pixels(self.exif, self.max_pixels)

    def treat(self, annotations: Annotations) -> Annotations:
        """The annotations after what ``bad_boxes`` says, with the way in which their images are read."""
        read = replace(annotations, pixels=self.pixels)
        return read.repair() if self.bad_boxes == "repair" else read


def pixels_of(options: FolderOptions) -> str:
    """What of the options decides pixels; empty where they are read as stored."""
    return f"exif {options.exif}" if options.exif != "ignore" else ""


@dataclass(frozen=True)
class DataFormat:
    """How data of one format are read, recognised and written. The first three functions and ``pixels`` take ``options``.

    Attributes:
        options: The keys that belong to the format.
        classes: Class names in label order, without reading images.
        splits: Names of the splits that exist: ``train``, ``val`` and perhaps ``test``.
        read: Annotations of one split; DataError when nothing can be read, all else is noted in their ``problems``.
        doc: One line for listings.
        find: The options by which a folder is opened, where it is recognised as one of this format; else None.
        write: Write splits (of equal classes) into a new folder; returns what the format cannot hold, in words. None: never.
        signs: What :attr:`find` looks for, for the message about a folder that no format knows.
        pixels: What decides the pixels beside the files that a user gave (``shapes``: options and version of the drawing).
    """

    options: type[FormatOptions]
    classes: Callable[[Any], tuple[str, ...]]
    splits: Callable[[Any], tuple[str, ...]]
    read: Callable[[Any, str], Annotations]
    doc: str = ""
    pixels: Callable[[Any], str] = lambda options: ""
    find: Callable[[Path], Mapping[str, Any] | None] = lambda root: None
    write: Callable[[Mapping[str, Annotations], Path], tuple[str, ...]] | None = None
    signs: str = ""


DATASETS: Registry[DataFormat] = Registry("data format", "kdflow.data")


def splits_of(format: DataFormat, options: FormatOptions) -> tuple[str, ...]:
    """Names of the splits that exist, or are held out of the training images.

    Raises:
        UsageError: A split is to be held out that the data set has.
        DataError: There is nothing to hold it out of.
    """
    own, held = format.splits(options), _held_out(options)
    if twice := [split for split in held if split in own]:
        raise UsageError(f"data.hold_out.{twice[0]}: the data set has a {twice[0]} split; leave this key out")
    if held and "train" not in own:
        raise DataError(f"data.hold_out: there is no train split to hold out of; found {', '.join(own)}")
    return tuple(split for split in SPLITS if split in own or split in held)


def read_split(format: DataFormat, options: FormatOptions, name: str) -> Annotations:
    """Annotations of one of :func:`splits_of`."""
    held = _held_out(options)
    if name != "train" and name not in held:
        return format.read(options, name)
    whole = format.read(options, "train")
    if not held:
        return whole
    part = parts_of(whole.names, held)[name]
    taken = whole.take(part, f"{whole.place} ({len(part)} of {len(whole)} images, {name})")
    return replace(taken, problems=whole.problems, notes=whole.notes) if name == "train" else taken


def parts_of(names: Sequence[str], shares: Mapping[str, float]) -> dict[str, list[int]]:
    """Positions of the names in ``train`` and in the splits with these shares, at least one in each where there are enough."""
    order = sorted(range(len(names)), key=lambda index: hashlib.sha256(names[index].encode(errors="replace")).digest())
    found: dict[str, list[int]] = {}
    for split, share in shares.items():
        count = min(max(1, round(share * len(names))), max(0, len(order) - 1))
        found[split], order = sorted(order[:count]), order[count:]
    return {"train": sorted(order), **found}


def _held_out(options: FormatOptions) -> dict[str, float]:
    held = options.hold_out if isinstance(options, FolderOptions) else None
    return held.shares if held is not None else {}


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Attributes:
        name: ``train``, ``val`` or ``test``; a test split that falls back to validation is called ``val``.
        dataset: Samples for a loader.
    """

    name: str
    dataset: DetectionSet

    @property
    def annotations(self) -> Annotations:
        """Boxes as arrays."""
        return self.dataset.annotations

    @cached_property
    def coco(self) -> dict[str, Any]:
        """COCO-format ground truth: contiguous category ids from 0, crowds and difficult objects with ``iscrowd`` 1."""
        return self.annotations.coco()

    def __len__(self) -> int:
        return len(self.dataset)


class Splits(Mapping[str, Split]):
    """``train``, ``val`` and ``test`` of a data set, each read when first asked for; val stands in for a missing test.

    Args:
        format: How to read them.
        options: Checked options of the format.
    """

    def __init__(self, format: DataFormat, options: FormatOptions) -> None:
        self.existing = splits_of(format, options)
        self.pixels = format.pixels(options)
        self.drawn = not isinstance(options, FolderOptions)
        self._format = format
        self._options = options
        self._annotations: dict[str, Annotations] = {}
        self._splits: dict[str, Split] = {}

    def read(self, name: str) -> Annotations:
        """Annotations of an existing split as they are, wrong boxes included."""
        if name not in self._annotations:
            self._annotations[name] = read_split(self._format, self._options, name)
        return self._annotations[name]

    def __getitem__(self, name: str) -> Split:
        """The split; raises DataError with everything that is wrong in its annotations."""
        if name not in SPLITS:
            raise KeyError(name)
        real = "val" if name == "test" and name not in self.existing else name
        if real not in self.existing:
            raise DataError(f'no "{real}" split, only {", ".join(self.existing)}. Next: name it in data.{real}')
        if real not in self._splits:
            raise_faults(faults_of(self.read(real)))
            self._splits[real] = Split(real, DetectionSet(self.read(real)))
        return self._splits[real]

    def __iter__(self) -> Iterator[str]:
        return iter(SPLITS)

    def __len__(self) -> int:
        return len(SPLITS)


@dataclass(frozen=True, eq=False)
class DataSource:
    """A data set.

    Attributes:
        format: Name of the format.
        classes: Class names in label order.
        splits: ``train``, ``val``, ``test``.
    """

    format: str
    classes: tuple[str, ...]
    splits: Splits

    @property
    def two_splits(self) -> bool:
        """True where test falls back to validation."""
        return "test" not in self.splits.existing

    @cached_property
    def fingerprint(self) -> str:
        """Hash of classes, image names, sizes and boxes of all splits, and of the bytes of some image files.

        What a trained teacher depends on, wherever the data lie; about :data:`SAMPLED` files of each split are read.
        """
        digest = hashlib.sha256(repr((self.classes, self.splits.pixels)).encode())
        for split in self.splits.existing:
            table = self.splits.read(split)
            digest.update(repr((split, table.names)).encode())
            for array in (table.ids, table.sizes, table.owners, table.boxes, table.labels, table.ignored):
                digest.update(array.tobytes())
            if not self.splits.drawn:
                digest.update(_sample(table.files).encode())
        return digest.hexdigest()[:16]


def _sample(files: Sequence[str]) -> str:
    """Hash of the bytes of some files, evenly spaced; what cannot be read is told elsewhere."""
    digest = hashlib.sha256()
    for index in range(0, len(files), max(1, len(files) // SAMPLED)):
        with suppress(OSError, ValueError), open(files[index], "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def parse_options(format: str, options: Mapping[str, Any]) -> FormatOptions:
    """The checked options of a format; raises UsageError with every wrong key."""
    model = DATASETS.get(format).options
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        raise UsageError("\n".join(_say(model, complaint) for complaint in error.errors())) from None


def _say(model: type[BaseModel], complaint: Any) -> str:
    place = ".".join(["data", *map(str, complaint["loc"])])
    if complaint["type"] == "extra_forbidden":
        known = model.model_fields if len(complaint["loc"]) == 1 else ()
        return f"{place}: unknown key.{choices(str(complaint['loc'][-1]), known) if known else ''}"
    if complaint["type"] == "missing":
        return f"{place}: this key is missing"
    message = complaint["msg"].removeprefix("Value error, ")
    return f"{place}: {message[0].lower()}{message[1:]} (got {complaint.get('input')!r})"


def describe(format: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names in label order, from the options or one annotation file; no image is read and nothing is drawn.

    Raises:
        UnknownNameError: When there is no such format.
        UsageError: When options are wrong.
        DataError: When the annotation file is missing or broken, or there is no train or no val split.
    """
    part, parsed = DATASETS.get(format), parse_options(format, options)
    existing = splits_of(part, parsed)
    lacking = [split for split in ("train", "val") if split not in existing]
    if lacking:
        hint = "name it, or hold it out with data.hold_out: {val: 0.15}"
        missing = f"data.{lacking[0]}: training needs a train and a val split; found {', '.join(existing)}"
        raise DataError(f"{missing}. Next: {hint}")
    return part.classes(parsed)


def open_data(format: str, options: Mapping[str, Any]) -> DataSource:
    """A data set of a registered format; splits are read when asked for (``source.splits["train"]``).

    Args:
        format: ``shapes``, ``coco``, ``voc``, ``yolo``, ``huggingface`` or a format added by a plugin.
        options: The keys of the bench's ``data`` that belong to the format.

    Raises:
        UnknownNameError: When there is no such format.
        UsageError: When options are wrong.
        DataError: When an annotation file is missing or broken; also when a split with faults is asked for.
    """
    part, parsed = DATASETS.get(format), parse_options(format, options)
    return DataSource(format, part.classes(parsed), Splits(part, parsed))
