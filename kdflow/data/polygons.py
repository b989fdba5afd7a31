"""Boxes of COCO segmentations: polygons, and run lengths in either of their two forms."""

from __future__ import annotations

import math
from itertools import accumulate

from kdflow.data.values import number, whole

XYWH = tuple[float, float, float, float]


def box_of(segmentation: object) -> XYWH | None:
    """Left, top, width, height of what a segmentation covers; None where it is none, or covers nothing.

    Args:
        segmentation: A list of polygons ``[x, y, x, y, x, y, ...]``, or ``{size: [height, width], counts: ...}`` with counts as a
            list or as COCO's text.
    """
    if isinstance(segmentation, dict):
        return _box_of_runs(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        return None
    numbers: list[float] = []
    for polygon in segmentation:
        found = [number(value) for value in polygon] if isinstance(polygon, list) else []
        if len(found) < 6 or len(found) % 2 or any(value is None or not math.isfinite(value) for value in found):
            return None
        numbers += [value for value in found if value is not None]
    xs, ys = numbers[::2], numbers[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _box_of_runs(mask: dict[str, object]) -> XYWH | None:
    """Runs go down the columns, beginning with one outside the object."""
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, (list, str)):
        return None
    height, width = (whole(side) for side in size)
    runs = [whole(run) for run in counts] if isinstance(counts, list) else _decode(counts)
    if not height or not width or min(height, width) < 0 or not runs:
        return None
    if any(run is None or run < 0 for run in runs):
        return None
    ends = list(accumulate(run for run in runs if run is not None))
    if ends[-1] != height * width:
        return None
    inside = [(start, end) for start, end in zip(ends[::2], ends[1::2]) if end > start]
    if not inside:
        return None
    left, right = inside[0][0] // height, (inside[-1][1] - 1) // height
    rows = [_rows(start, end - 1, height) for start, end in inside]
    top, bottom = min(first for first, _ in rows), max(last for _, last in rows)
    return float(left), float(top), float(right - left + 1), float(bottom - top + 1)


def _rows(first: int, last: int, height: int) -> tuple[int, int]:
    """First and last row of a run; one that goes over into another column reaches both ends."""
    return (0, height - 1) if first // height != last // height else (first % height, last % height)


def _decode(text: str) -> list[int | None]:
    """Runs of COCO's text: 5 bits a character, the sixth says that more follow; from the fourth run on, differences.

    A difference is to the run before the last: the one of the same side.
    """
    runs: list[int | None] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return []
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] or 0) if len(runs) > 2 else value)
        value = shift = 0
    return runs if shift == 0 else []
