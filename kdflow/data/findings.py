"""What is wrong or worth knowing in the annotations of a split: counted, with first examples and a next move."""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdflow.data.annotations import EXAMPLES, Annotations, Trouble
from kdflow.data.files import Folders
from kdflow.data.images import SUFFIXES, too_large
from kdflow.data.transforms import Geometry
from kdflow.errors import DataError

_REPAIR = 'correct them, or say "bad_boxes: repair"'
ADVICE: Mapping[str, str] = {
    Trouble.UNREADABLE: "correct these files, or remove their entries",
    Trouble.IMAGE_ID: "give every image a whole number as its id",
    Trouble.NO_SIZE: "write width and height in pixels",
    Trouble.NO_IMAGES: "the split lists nothing to train or evaluate on",
    Trouble.MISSING_FILE: "check the image folder, or remove these entries",
    Trouble.BROKEN_FILE: "fetch these files again, or remove their entries",
    Trouble.TOO_LARGE: "cut it into tiles or make it smaller, or raise data.max_pixels",
    Trouble.LEAVES: "name files inside the image folder; where links lead elsewhere, put the files there, or take their "
    "folder as root",
    Trouble.OTHER_SIZE: "the boxes would land elsewhere; correct width and height, or the file (a rotated copy?)",
    Trouble.DUPLICATE_ID: "boxes would go to either image; give every image its own id",
    Trouble.DUPLICATE_FILE: "remove one of the entries",
    Trouble.UNKNOWN_CLASS: "list the class, or remove its boxes",
    Trouble.UNKNOWN_IMAGE: "list the image, or remove its boxes",
    Trouble.NOT_FINITE: _REPAIR,
    Trouble.INVERTED: _REPAIR,
    Trouble.EMPTY: _REPAIR,
    Trouble.OUTSIDE: _REPAIR,
    Trouble.NO_BOX: "write bbox (COCO: [x, y, width, height]; VOC: <bndbox> with xmin, ymin, xmax, ymax), or remove them",
    Trouble.VALUE: "write what is expected",
    Trouble.NORMALISED: "multiply them by the width and height of their image",
    Trouble.NO_TARGETS: "name a split with boxes, or a larger data.size where they are too small",
    Trouble.NO_OBJECTS: "average precision does not exist without any; name another split, or another metric",
    Trouble.COPIES: "what is trained on must not be evaluated on; remove one of the files",
    Trouble.TWO_SPLITS: "what is trained on must not be evaluated on; remove it from one of them",
}


@dataclass(frozen=True)
class Finding:
    """One sort of trouble, or one note, in one place.

    Attributes:
        place: Annotation file or folder.
        what: The words for it.
        count: How often it occurs.
        examples: The first few.
        fatal: True where training stops; False where it is only counted.
    """

    place: str
    what: str
    count: int
    examples: tuple[str, ...] = ()
    fatal: bool = True

    def __str__(self) -> str:
        shown = f", for example {'; '.join(self.examples)}" if self.examples else ""
        advice = f". Next: {ADVICE[self.what]}" if self.what in ADVICE else ""
        return f"{self.place}  {self.what}: {self.count}{shown}{advice}"


def faults_of(annotations: Annotations) -> list[Finding]:
    """Everything in the annotations that stops training; files are looked up by name and not opened."""
    found = _noted(annotations)
    if not len(annotations) and not annotations.problems:
        found.append(Finding(annotations.place, Trouble.NO_IMAGES, 1))
    found += _file_faults(annotations)
    found += [
        Finding(annotations.place, trouble, int(mask.sum()), annotations.describe(mask))
        for trouble, mask in annotations.faulty().items()
        if mask.any()
    ]
    if _in_unit_square(annotations):
        every = np.ones(len(annotations.boxes), dtype=np.bool_)
        found.append(Finding(annotations.place, Trouble.NORMALISED, len(every), annotations.describe(every)))
    return found


def purpose_faults(split: str, annotations: Annotations, geometry: Geometry) -> list[Finding]:
    """Whether a split can serve its purpose: boxes to learn from in ``train`` at this input size, objects in the others."""
    wanted = ~annotations.ignored
    if split != "train":
        lacking = len(annotations) and not wanted.any()
        return [Finding(annotations.place, Trouble.NO_OBJECTS, 1)] if lacking else []
    small = _small(annotations, geometry)
    if not len(annotations) or (wanted & ~small).any():
        return []
    count = int((wanted & small).sum())
    why = (f"all {count} are below one pixel at {geometry.words}",) if count else ()
    return [Finding(annotations.place, Trouble.NO_TARGETS, 1, why)]


_AREAS = {"AP_S": (0.0, 32.0**2), "AP_M": (32.0**2, 96.0**2), "AP_L": (96.0**2, math.inf)}
"""Areas of the objects that COCO's metrics of one size count, pixels."""


def metric_faults(annotations: Annotations, metrics: Iterable[str]) -> list[Finding]:
    """Which metrics cannot exist on a split, because it has no object of their size."""
    areas = annotations.areas[~annotations.ignored]
    lacking = [m for m in metrics if m in _AREAS and not ((areas >= _AREAS[m][0]) & (areas <= _AREAS[m][1])).any()]
    found = tuple(f"{m} counts areas of {_AREAS[m][0]:g} to {_AREAS[m][1]:g} pixels" for m in lacking)
    return [Finding(annotations.place, Trouble.NO_OBJECTS, len(found), found)] if found and len(areas) else []


def small_boxes(annotations: Annotations, geometry: Geometry) -> list[Finding]:
    """How many boxes are left out in training, because less than a pixel of them is left at this input size."""
    small = _small(annotations, geometry) & ~annotations.ignored
    what = f"boxes below one pixel at {geometry.words} (left out in training)"
    count = int(small.sum())
    return [Finding(annotations.place, what, count, annotations.describe(small), fatal=False)] if count else []


def tiny_boxes(annotations: Annotations, geometry: Geometry) -> list[Finding]:
    """How many boxes are below two pixels at this input size, but not below one: no detector learns much from them."""
    tiny = _small(annotations, geometry, 2) & ~_small(annotations, geometry) & ~annotations.ignored
    what = f"boxes below two pixels at {geometry.words} (hardly to be learned)"
    count = int(tiny.sum())
    return [Finding(annotations.place, what, count, annotations.describe(tiny), fatal=False)] if count else []


def _small(annotations: Annotations, geometry: Geometry, least: float = 1) -> NDArray[np.bool_]:
    """(N,) boxes below ``least`` pixels, of which :func:`~kdflow.data.transforms.clean` leaves nothing where it is one."""
    sizes, which = np.unique(annotations.sizes, axis=0, return_inverse=True)
    targets = [geometry.target(h, w) if min(h, w) > 0 else (0, 0) for h, w in sizes.tolist()]
    scale = (np.asarray(targets, dtype=np.float64).reshape(-1, 2) / np.maximum(sizes, 1))[which.reshape(-1)]
    limits = annotations.sizes[annotations.owners][:, ::-1]
    corners = annotations.corners()
    sides = np.minimum(corners[:, 2:], limits) - np.maximum(corners[:, :2], 0)
    known = (limits > 0).all(axis=1) & ~np.any(list(annotations.faulty().values()), axis=0)
    return known & (sides * scale[annotations.owners][:, ::-1] < least - 1e-6).any(axis=1)


def _in_unit_square(annotations: Annotations) -> bool:
    """True where every box lies in the first pixel of its image, VOC's shift included: shares of the image, not pixels."""
    corners = annotations.corners()
    return bool(len(corners) and (corners >= -1).all() and (corners <= 1).all() and (annotations.sizes > 1).all())


def notes_of(annotations: Annotations) -> list[Finding]:
    """What is fine, and good to know."""
    taken = [Finding(annotations.place, n.what, n.count, n.examples, fatal=False) for n in annotations.notes]
    faulty = np.any(list(annotations.faulty().values()), axis=0)
    over = annotations.overhang()
    with_boxes = np.unique(annotations.owners)
    counts = {
        "images without boxes": len(annotations) - len(with_boxes),
        "crowds and difficult objects (no training targets)": int(annotations.ignored.sum()),
        "boxes over the border by up to two pixels (cut in training)": int((~faulty & (over > 1e-3)).sum()),
    }
    return [*taken, *(Finding(annotations.place, what, count, fatal=False) for what, count in counts.items() if count)]


def shared_images(annotations: Mapping[str, Annotations]) -> list[Finding]:
    """Image files that are in more than one split."""
    files = {split: set(table.files) for split, table in annotations.items()}
    found = []
    for one, other in itertools.combinations(files, 2):
        both = sorted(files[one] & files[other])
        if both:
            examples = tuple(Path(file).name for file in both[:EXAMPLES])
            found.append(Finding(f"{one} and {other}", Trouble.TWO_SPLITS, len(both), examples))
    return found


def unlisted_images(annotations: Mapping[str, Annotations]) -> list[Finding]:
    """Image files that lie beside those of the splits, and are in none of them."""
    listed = {file for table in annotations.values() for file in table.files}
    found = []
    for folder in sorted({os.path.dirname(file) for file in listed}):
        names = os.listdir(folder) if os.path.isdir(folder) else []
        found += [
            path for name in sorted(names) if (path := os.path.join(folder, name)) not in listed and _is_image(name)
        ]
    examples = tuple(map(os.path.basename, found[:EXAMPLES]))
    what = "image files beside those of the splits, in none of them"
    return [Finding(" and ".join(annotations), what, len(found), examples, fatal=False)] if found else []


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def group(place: str, troubles: Iterable[tuple[Trouble, str]]) -> list[Finding]:
    """Single problems counted by what they are, in the order of first occurrence."""
    examples: dict[Trouble, list[str]] = {}
    for trouble, example in troubles:
        examples.setdefault(trouble, []).append(example)
    return [Finding(place, trouble, len(all_), tuple(all_[:EXAMPLES])) for trouble, all_ in examples.items()]


def raise_faults(findings: Sequence[Finding]) -> None:
    """Raise DataError with every fatal finding; return when there is none."""
    faults = [finding for finding in findings if finding.fatal]
    if faults:
        count = f"{len(faults)} problem{'s' if len(faults) != 1 else ''} in the data, nothing was run."
        raise DataError("\n".join([*map(str, faults), count]))


def _noted(annotations: Annotations) -> list[Finding]:
    return group(annotations.place, ((p.trouble, p.example) for p in annotations.problems))


def _file_faults(annotations: Annotations) -> list[Finding]:
    """Missing files, files listed twice, outside the data set or too large; each folder is listed once, no file is touched."""
    troubles: list[tuple[Trouble, str]] = []
    folders = Folders(annotations.folders)
    twice = Counter(annotations.files)
    largest = annotations.pixels.max_pixels
    for file, name, (height, width) in zip(annotations.files, annotations.names, annotations.sizes.tolist()):
        if folders.leaves(file):
            troubles.append((Trouble.LEAVES, name))
        elif not folders.has(file):
            troubles.append((Trouble.MISSING_FILE, name))
        if twice[file] > 1:
            troubles.append((Trouble.DUPLICATE_FILE, name))
        if height * width > largest:
            troubles.append((Trouble.TOO_LARGE, f"{name} ({too_large(width, height, annotations.pixels)})"))
    return group(annotations.place, troubles)
