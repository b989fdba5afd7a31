"""``kdflow data check``: every split of a data set, its annotations and, file by file, its images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kdflow.data.annotations import Annotations, Trouble
from kdflow.data.dataset import DECODING_ERRORS
from kdflow.data.findings import Finding, faults_of, group, notes_of, raise_faults, shared_images
from kdflow.data.folders import open_folder
from kdflow.data.formats import DataSource


@dataclass(frozen=True)
class SplitReport:
    """Counts of one split.

    Attributes:
        split: Its name.
        images: Images listed.
        boxes: Boxes that are training targets.
        per_class: Those boxes by class, in label order.
        findings: What is wrong, then what is worth knowing.
    """

    split: str
    images: int
    boxes: int
    per_class: dict[str, int]
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        classes = ", ".join(f"{name} {count}" for name, count in self.per_class.items())
        lines = [f"{self.split}: {self.images} images, {self.boxes} boxes ({classes})"]
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
    """

    format: str
    classes: tuple[str, ...]
    splits: tuple[SplitReport, ...]
    across: tuple[Finding, ...] = ()

    @property
    def faults(self) -> tuple[Finding, ...]:
        """Everything that stops training or spoils its result."""
        every = [finding for split in self.splits for finding in split.findings]
        return tuple(finding for finding in (*every, *self.across) if finding.fatal)

    def raise_faults(self) -> None:
        """Raise DataError with all faults, in the words that training uses."""
        raise_faults(self.faults)

    def __str__(self) -> str:
        head = f"{self.format}, {len(self.classes)} classes: {', '.join(self.classes)}"
        count = len(self.faults)
        verdict = f"{count} problem{'s' if count != 1 else ''}" if count else "no problems"
        return "\n".join([head, *map(str, self.splits), *(f"fault  {finding}" for finding in self.across), verdict])


def check_data(source: DataSource | str | Path, files: bool = True) -> DataReport:
    """Report on a data set; nothing that is wrong inside it raises.

    Args:
        source: An opened data set, or a COCO or VOC folder.
        files: Also open every image file and compare its size with the annotation.

    Raises:
        DataError: When a folder is no data set, or an annotation file cannot be read at all.
    """
    opened = source if isinstance(source, DataSource) else open_folder(source)
    tables = {name: opened.splits.read(name) for name in opened.splits.existing}
    splits = tuple(_check_split(name, table, files) for name, table in tables.items())
    return DataReport(opened.format, opened.classes, splits, tuple(shared_images(tables)))


def check_folder(path: str | Path) -> DataReport:
    """Report on a COCO or VOC folder, images opened."""
    return check_data(path)


def _check_split(name: str, table: Annotations, files: bool) -> SplitReport:
    broken = group(table.place, _broken_files(table)) if files else []
    used = table.labels[~table.ignored]
    counts = np.bincount(used, minlength=len(table.classes)).tolist()
    findings = (*faults_of(table), *broken, *notes_of(table))
    return SplitReport(name, len(table), len(used), dict(zip(table.classes, counts)), findings)


def _broken_files(table: Annotations) -> Iterator[tuple[Trouble, str]]:
    """Files that exist and cannot be decoded, or are not of the annotated size."""
    for file, name, (height, width) in zip(table.files, table.names, table.sizes.tolist()):
        try:
            with Image.open(file) as image:
                image.load()
                found = (image.width, image.height)
        except FileNotFoundError:
            continue  # already counted as missing
        except DECODING_ERRORS as error:
            yield Trouble.BROKEN_FILE, f"{name} ({_first_line(error)})"
            continue
        if found != (width, height) and min(width, height) > 0:
            yield Trouble.OTHER_SIZE, f"{name} is {found[0]}x{found[1]}, annotated {width}x{height}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
