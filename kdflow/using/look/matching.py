"""Which objects of a picture were found, and what else was claimed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IOU = 0.5
"""Overlap from which a box is the object's."""
NOTHING = -1
"""Stands for background in a confusion."""
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Matched:
    """Detections of a picture against its objects.

    Attributes:
        found: Ids of the objects that a detection of their class found.
        missed: Ids of the others.
        false: Detections that found no object of their class; those on ignored ones do not count.
        pairs: (class of the object or NOTHING, class of the detection or NOTHING) -> how often.
    """

    found: frozenset[int]
    missed: frozenset[int]
    false: tuple[Entry, ...]
    pairs: Counter[tuple[int, int]]


def match(objects: Sequence[Entry], detections: Sequence[Entry], threshold: float) -> Matched:
    """Best score first, each takes the free object of its class that it overlaps most; what is left pairs whatever the class.

    Args:
        objects: Annotations of a picture in COCO's form; ``iscrowd`` ones are to be ignored.
        detections: Detections in COCO's form.
        threshold: Detections with less than this score are left out.
    """
    seen = sorted((one for one in detections if one["score"] >= threshold), key=lambda one: -one["score"])
    real = [one for one in objects if not one["iscrowd"]]
    overlaps = iou([one["bbox"] for one in seen], [one["bbox"] for one in real])
    free, left = set(range(len(real))), []
    pairs: Counter[tuple[int, int]] = Counter()
    found: set[int] = set()
    for row, one in enumerate(seen):
        same = [k for k in free if real[k]["category_id"] == one["category_id"] and overlaps[row, k] >= IOU]
        if same:
            best = max(same, key=lambda k: (overlaps[row, k], -k))
            free.discard(best)
            found.add(int(real[best]["id"]))
            pairs[one["category_id"], one["category_id"]] += 1
        else:
            left.append(row)
    ignored = iou([seen[row]["bbox"] for row in left], [one["bbox"] for one in objects if one["iscrowd"]])
    false = [row for position, row in enumerate(left) if not (ignored[position] >= IOU).any()]
    untaken = set(free)
    for row in false:
        near = [k for k in untaken if overlaps[row, k] >= IOU]
        best_other = max(near, key=lambda k: (overlaps[row, k], -k)) if near else None
        if best_other is not None:
            untaken.discard(best_other)
        pairs[NOTHING if best_other is None else real[best_other]["category_id"], seen[row]["category_id"]] += 1
    for k in untaken:
        pairs[real[k]["category_id"], NOTHING] += 1
    missed = frozenset(int(real[k]["id"]) for k in free)
    return Matched(frozenset(found), missed, tuple(seen[row] for row in false), pairs)


def iou(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """(n, m) overlaps of boxes given as x, y, width, height."""
    one = np.asarray(ours, dtype=np.float64).reshape(-1, 1, 4)
    two = np.asarray(theirs, dtype=np.float64).reshape(1, -1, 4)
    low = np.maximum(one[..., :2], two[..., :2])
    high = np.minimum(one[..., :2] + one[..., 2:], two[..., :2] + two[..., 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    whole = np.prod(one[..., 2:], axis=-1) + np.prod(two[..., 2:], axis=-1) - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
