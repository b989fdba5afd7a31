"""Looking at image files: broken, too large, of another size than annotated, or shown otherwise than stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from kdflow.data.annotations import EXAMPLES, Annotations, Trouble
from kdflow.data.files import Folders
from kdflow.data.findings import Finding, group
from kdflow.data.images import Header, ImageFaultError, read_header

SAMPLED = 1000
"""Headers read when a data set is opened for a run."""


def some(table: Annotations, limit: int = SAMPLED) -> list[int]:
    """Up to ``limit`` images, evenly spaced."""
    step = max(1.0, len(table) / limit)
    return [int(k * step) for k in range(min(limit, len(table)))]


def look(table: Annotations, indices: Iterable[int], decode: bool) -> list[Finding]:
    """What is wrong with these image files, then what is worth knowing; missing ones and those outside are counted elsewhere.

    Args:
        table: Annotations of the split.
        indices: Images to look at.
        decode: Decode all pixels, instead of the headers only.
    """
    folders = Folders(table.folders)
    troubles: list[tuple[Trouble, str]] = []
    turned: list[str] = []
    seen: Counter[bool] = Counter()
    for index in indices:
        file, name = table.files[index], table.names[index]
        if folders.leaves(file):
            continue
        try:
            header = read_header(file, table.pixels, decode)
        except ImageFaultError as error:
            if error.trouble != Trouble.MISSING_FILE:
                troubles.append((error.trouble, f"{name} ({error.reason})"))
            continue
        seen[header.orientation != 1] += 1
        if header.orientation != 1:
            turned.append(f"{name} ({header.orientation})")
        if difference := other_size(table, index, header):
            troubles.append((Trouble.OTHER_SIZE, difference))
    return [*group(table.place, troubles), *_orientation(table, turned, seen.total())]


def other_size(table: Annotations, index: int, header: Header) -> str:
    """How the file's size differs from the annotated one, in words; empty where it does not, or none is annotated."""
    height, width = table.sizes[index].tolist()
    if min(height, width) <= 0 or header.size == (height, width):
        return ""
    words = f"{table.names[index]} is {header.size[1]}x{header.size[0]}, annotated {width}x{height}"
    if header.orientation > 4 and header.size == (width, height):
        other = "apply" if table.pixels.exif == "ignore" else "ignore"
        words += f" (EXIF orientation {header.orientation}: with data.exif: {other} they agree)"
    return words


def _orientation(table: Annotations, turned: list[str], seen: int) -> list[Finding]:
    if not turned:
        return []
    how = {
        "ignore": "read as stored, which is not what people see (exif: ignore); if the boxes were drawn on the picture as shown, "
        "say exif: apply",
        "apply": "read as shown (exif: apply)",
    }[table.pixels.exif]
    of = f" of {seen} looked at" if seen < len(table) else ""
    what = f"images{of} with an EXIF orientation, {how}"
    return [Finding(table.place, what, len(turned), tuple(turned[:EXAMPLES]), fatal=False)]
