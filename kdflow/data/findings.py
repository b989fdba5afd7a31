"""What is wrong or worth knowing in the annotations of a split: counted, with first examples and a next move."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdflow.data.annotations import Annotations, Trouble
from kdflow.errors import DataError

EXAMPLES = 5
"""Examples shown of each finding."""

_REPAIR = 'correct them, or say "bad_boxes: repair"'
ADVICE: Mapping[str, str] = {
    Trouble.NO_IMAGES: "the split lists nothing to train or evaluate on",
    Trouble.MISSING_FILE: "check the image folder, or remove these entries",
    Trouble.BROKEN_FILE: "fetch these files again, or remove their entries",
    Trouble.OTHER_SIZE: "the boxes would land elsewhere; correct width and height, or the file (a rotated copy?)",
    Trouble.DUPLICATE_ID: "boxes would go to either image; give every image its own id",
    Trouble.DUPLICATE_FILE: "remove one of the entries",
    Trouble.UNKNOWN_CLASS: "list the class, or remove its boxes",
    Trouble.UNKNOWN_IMAGE: "list the image, or remove its boxes",
    Trouble.NOT_FINITE: _REPAIR,
    Trouble.INVERTED: _REPAIR,
    Trouble.EMPTY: _REPAIR,
    Trouble.OUTSIDE: _REPAIR,
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
    if not len(annotations):
        found.append(Finding(annotations.place, Trouble.NO_IMAGES, 1))
    found += _file_faults(annotations)
    found += [
        Finding(annotations.place, trouble, int(mask.sum()), _box_examples(annotations, mask))
        for trouble, mask in annotations.faulty().items()
        if mask.any()
    ]
    return found


def notes_of(annotations: Annotations) -> list[Finding]:
    """What is fine, and good to know."""
    faulty = np.any(list(annotations.faulty().values()), axis=0)
    over = annotations.overhang()
    with_boxes = np.unique(annotations.owners)
    counts = {
        "images without boxes": len(annotations) - len(with_boxes),
        "crowds and difficult objects (no training targets)": int(annotations.ignored.sum()),
        "boxes over the border by up to two pixels (cut in training)": int((~faulty & (over > 1e-3)).sum()),
        "boxes cut or left out by bad_boxes: repair": annotations.repaired,
    }
    return [Finding(annotations.place, what, count, fatal=False) for what, count in counts.items() if count]


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
    """Missing files, files listed twice and images without a size; each folder is listed once, no file is touched."""
    troubles: list[tuple[Trouble, str]] = []
    folders: dict[Path, set[str]] = {}
    twice = Counter(annotations.files)
    for file, name, size in zip(annotations.files, annotations.names, annotations.sizes):
        path = Path(file)
        if path.parent not in folders:
            folders[path.parent] = {entry.name for entry in path.parent.iterdir()} if path.parent.is_dir() else set()
        if path.name not in folders[path.parent]:
            troubles.append((Trouble.MISSING_FILE, name))
        if twice[file] > 1:
            troubles.append((Trouble.DUPLICATE_FILE, name))
        if (size <= 0).any():
            troubles.append((Trouble.NO_SIZE, name))
    return group(annotations.place, troubles)


def _box_examples(annotations: Annotations, mask: NDArray[np.bool_]) -> tuple[str, ...]:
    """``name: class at left, top, width, height in a 640x480 image`` of the first boxes in ``mask``."""

    def say(row: int) -> str:
        owner = annotations.owners[row]
        height, width = annotations.sizes[owner]
        box = ", ".join(f"{value:g}" for value in annotations.boxes[row])
        label = annotations.classes[annotations.labels[row]]
        return f"{annotations.names[owner]}: {label} at [{box}] (x, y, w, h) in {width}x{height}"

    return tuple(say(int(row)) for row in np.flatnonzero(mask)[:EXAMPLES])
