"""What stands twice in a data set: the same picture in two files, the same object in two boxes."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdflow.data.annotations import EXAMPLES, Annotations, Trouble
from kdflow.data.findings import Finding

OVERLAP = 0.9
"""IoU from which two boxes are taken for one object."""
Place = tuple[str, str]
"""Split and file."""


def same_content(tables: Mapping[str, Annotations]) -> list[Finding]:
    """Files of equal bytes under different names: in two splits, which is a fault, and inside one."""
    across: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for copies in _copies(dict.fromkeys((split, file) for split, table in tables.items() for file in table.files)):
        splits = tuple(split for split in tables if any(place[0] == split for place in copies))
        files = list(dict.fromkeys(file for _, file in copies))
        if len(files) > 1:  # one file in two splits is found by its name
            across[splits].append(" = ".join(Path(file).name for file in files[:3]))
    found = []
    for splits, examples in across.items():
        shown = tuple(examples[:EXAMPLES])
        if len(splits) > 1:
            found.append(Finding(" and ".join(splits), Trouble.COPIES, len(examples), shown))
        else:
            found.append(Finding(splits[0], "pictures that stand in several files", len(examples), shown, fatal=False))
    return found


def _copies(places: Iterable[Place]) -> list[list[Place]]:
    """Groups of files of equal bytes; only those of equal length are read."""
    by_length: dict[int, list[Place]] = defaultdict(list)
    for place in places:
        try:
            by_length[os.stat(place[1]).st_size].append(place)
        except (OSError, ValueError):
            continue  # told elsewhere
    by_content: dict[bytes, list[Place]] = defaultdict(list)
    for length, group in by_length.items():
        for place in group if len({file for _, file in group}) > 1 else ():
            try:
                with open(place[1], "rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256").digest()
            except OSError:
                continue
            by_content[length.to_bytes(8, "big") + digest].append(place)
    return [group for group in by_content.values() if len(group) > 1]


def overlapping(table: Annotations) -> list[Finding]:
    """Pairs of boxes in one image that hardly differ: of one class, most often an object that was annotated twice, and of two."""
    pairs = [pair for index in range(len(table)) for pair in _pairs(table, index)]
    found = []
    for same, what in ((True, "the same class"), (False, "different classes")):
        rows = [first for first, second in pairs if (table.labels[first] == table.labels[second]) == same]
        if rows:
            mask = np.zeros(len(table.boxes), dtype=np.bool_)
            mask[rows] = True
            words = f"pairs of boxes of {what} that overlap by more than {OVERLAP:.0%}"
            found.append(Finding(table.place, words, len(rows), table.describe(mask), fatal=False))
    return found


def _pairs(table: Annotations, index: int) -> Iterable[tuple[int, int]]:
    rows = table.rows(index)
    boxes = table.boxes[rows]
    good = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1) & ~table.ignored[rows]
    chosen = np.flatnonzero(good)
    if len(chosen) < 2:
        return ()
    iou = np.triu(pairwise_iou(boxes[chosen]), k=1)
    return [(rows.start + int(chosen[a]), rows.start + int(chosen[b])) for a, b in np.argwhere(iou > OVERLAP)]


def pairwise_iou(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, n) IoU of (n, 4) boxes (left, top, width, height), all of some area."""
    low, high = boxes[:, None, :2], boxes[:, None, :2] + boxes[:, None, 2:]
    sides = np.clip(np.minimum(high, high.swapaxes(0, 1)) - np.maximum(low, low.swapaxes(0, 1)), 0, None)
    both, areas = sides.prod(axis=2), boxes[:, 2:].prod(axis=1)
    found: NDArray[np.float64] = both / (areas[:, None] + areas[None] - both)
    return found
