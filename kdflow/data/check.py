"""``kdflow data check``: every split of a data set, its annotations and, file by file, its images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdflow.data.annotations import Annotations
from kdflow.data.augmented import augmentation_notes
from kdflow.data.duplicates import overlapping, same_content
from kdflow.data.findings import (
    Finding,
    faults_of,
    metric_faults,
    notes_of,
    purpose_faults,
    raise_faults,
    shared_images,
    small_boxes,
    tiny_boxes,
    unlisted_images,
)
from kdflow.data.folders import open_folder
from kdflow.data.formats import DataSource
from kdflow.data.look import look, some
from kdflow.data.survey import sides_at
from kdflow.data.transforms import Geometry
from kdflow.escape import one_line


@dataclass(frozen=True)
class SplitReport:
    """Counts of one split.

    Attributes:
        split: Its name.
        images: Images listed.
        boxes: Boxes that are training targets.
        per_class: Those boxes by class, in label order.
        sizes: Sizes of images and boxes, in words.
        findings: What is wrong, then what is worth knowing.
    """

    split: str
    images: int
    boxes: int
    per_class: dict[str, int]
    sizes: str
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        lines = [f"{self.split}: {self.images} images, {self.boxes} boxes{f' ({self.sizes})' if self.sizes else ''}"]
        lines += [f"  {'fault' if finding.fatal else 'note '}  {finding}" for finding in self.findings]
        return "\n".join(lines)


@dataclass(frozen=True)
class DataReport:
    """What a check found.

    Attributes:
        format: Data format.
        classes: Class names in label order.
        splits: One report per existing split.
        across: Findings that concern two splits.
        geometry: The input size at which sizes are counted.
    """

    format: str
    classes: tuple[str, ...]
    splits: tuple[SplitReport, ...]
    across: tuple[Finding, ...] = ()
    geometry: Geometry = field(default_factory=Geometry)

    @property
    def faults(self) -> tuple[Finding, ...]:
        """Everything that stops training or spoils its result."""
        every = [finding for split in self.splits for finding in split.findings]
        return tuple(finding for finding in (*every, *self.across) if finding.fatal)

    def raise_faults(self) -> None:
        """Raise DataError with all faults, in the words that training uses."""
        raise_faults(self.faults)

    @property
    def verdict(self) -> str:
        """How many faults there are, in words."""
        count = len(self.faults)
        return f"{count} problem{'s' if count != 1 else ''}" if count else "no problems"

    def counts(self) -> list[str]:
        """A table of boxes per class and split."""
        names = [one_line(name) for name in self.classes]
        wide = max(map(len, ["class", *names]))
        head = "class".ljust(wide) + "".join(f"{split.split:>9}" for split in self.splits)
        rows = zip(names, zip(*(split.per_class.values() for split in self.splits)))
        return [head, *(name.ljust(wide) + "".join(f"{count:>9}" for count in counts) for name, counts in rows)]

    def __str__(self) -> str:
        head = f"{self.format}, {len(self.classes)} classes"
        across = (f"{'fault' if finding.fatal else 'note '}  {finding}" for finding in self.across)
        return "\n".join([head, *self.counts(), *map(str, self.splits), *across, self.verdict])


def check_data(source: DataSource | str | Path, files: bool = True, geometry: Geometry | None = None) -> DataReport:
    """Report on a data set; nothing that is wrong inside it raises.

    Args:
        source: An opened data set, or a folder of a known format.
        files: Also open every image file and compare its size with the annotation.
        geometry: Input size at which boxes that vanish are counted; none: that of a bench that says nothing.

    Raises:
        DataError: When a folder is no data set, or an annotation file cannot be read at all.
    """
    opened = source if isinstance(source, DataSource) else open_folder(source)
    seen_at = geometry or Geometry()
    tables = {name: opened.splits.read(name) for name in opened.splits.existing}
    splits = tuple(_check_split(name, table, files, seen_at) for name, table in tables.items())
    copies = same_content(tables) if files else []
    across = (*shared_images(tables), *copies, *unlisted_images(tables))
    return DataReport(opened.format, opened.classes, splits, across, seen_at)


def require_ready(source: DataSource, geometry: Geometry, metrics: Iterable[str] = ()) -> tuple[Finding, ...]:
    """What a run on this data should tell before it begins. The headers of up to a thousand images per split are read.

    Args:
        source: The opened data set.
        geometry: The run's input size.
        metrics: What decides on the validation split.

    Raises:
        DataError: Everything that would stop the run or spoil its result, of all splits.
    """
    faults: list[Finding] = []
    notes: list[Finding] = []
    tables = {name: source.splits.read(name) for name in source.splits.existing}
    for name, table in tables.items():
        found = [*faults_of(table), *purpose_faults(name, table, geometry)]
        found += metric_faults(table, metrics) if name == "val" else []
        found += look(table, some(table), decode=False)
        faults += [finding for finding in found if finding.fatal]
        notes += [Finding(table.place, note.what, note.count, note.examples, fatal=False) for note in table.notes]
        notes += [finding for finding in found if not finding.fatal]
        notes += small_boxes(table, geometry) if name == "train" else []
    raise_faults(faults)
    notes += augmentation_notes(source.splits["train"], geometry) if "train" in tables else []
    return (*notes, *shared_images(tables))


def _check_split(name: str, table: Annotations, files: bool, geometry: Geometry) -> SplitReport:
    seen = look(table, range(len(table)), decode=True) if files else []
    used = table.labels[~table.ignored]
    counts = np.bincount(used, minlength=len(table.classes)).tolist()
    found = [*faults_of(table), *purpose_faults(name, table, geometry), *seen]
    found += [*notes_of(table), *small_boxes(table, geometry), *tiny_boxes(table, geometry), *overlapping(table)]
    findings = tuple(sorted(found, key=lambda finding: not finding.fatal))
    return SplitReport(name, len(table), len(used), dict(zip(table.classes, counts)), _sizes(table, geometry), findings)


def _sizes(table: Annotations, geometry: Geometry) -> str:
    """Sizes of the images, and of the boxes at the input size; empty where there is neither."""
    if not len(table):
        return ""
    areas = table.sizes.prod(axis=1)
    smallest, largest = (f"{w}x{h}" for h, w in table.sizes[[areas.argmin(), areas.argmax()]].tolist())
    images = f"images {smallest}" + (f" to {largest}" if largest != smallest else "")
    faulty = np.any(list(table.faulty().values()), axis=0)
    sides = sides_at(table, geometry, ~faulty)[0]
    if not len(sides):
        return images
    width, height = np.median(sides, axis=0).tolist()
    return f"{images}; half of the boxes are below {width:.0f}x{height:.0f} at {geometry.words}"
