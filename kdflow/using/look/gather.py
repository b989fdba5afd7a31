"""What the page shows: the sides, their detections and numbers, and the pictures that are worth a look."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdflow.data.formats import open_data
from kdflow.engine.coco import Precision
from kdflow.engine.evaluate import Evaluation, complete
from kdflow.errors import UsageError
from kdflow.experiment.findings import DETECTIONS, Findings, read_detections
from kdflow.experiment.result import RESULT, RunResult
from kdflow.using.look.matching import Entry, Matched, match
from kdflow.using.saved import Saved

BASELINE = "baseline"


@dataclass(frozen=True)
class Side:
    """One who looks at the pictures.

    Attributes:
        name: ``student``, ``plain student`` or the teacher's.
        evaluation: Its numbers and detections on the test split.
        by_image: Image id -> detections.
        matched: Image id -> detections against objects, above the threshold.
        curve: Precision at the recalls 0, 0.01, ... 1, at IoU 0.5, averaged over classes.
    """

    name: str
    evaluation: Evaluation
    by_image: Mapping[int, Sequence[Entry]]
    matched: Mapping[int, Matched]
    curve: Sequence[float] = ()

    @property
    def pairs(self) -> Counter[tuple[int, int]]:
        """(class of an object or -1, class of a detection or -1) -> how often, over all pictures."""
        total: Counter[tuple[int, int]] = Counter()
        for one in self.matched.values():
            total.update(one.pairs)
        return total


@dataclass(frozen=True)
class Story:
    """Pictures for a reason.

    Attributes:
        title: The reason.
        words: What is seen.
        images: Image ids, most telling first.
        counts: Image id -> how many objects or mistakes it is about.
    """

    title: str
    words: str
    images: tuple[int, ...]
    counts: Mapping[int, int]


@dataclass(frozen=True)
class Facts:
    """Everything on the page.

    Attributes:
        saved: The run.
        sides: Student first, then plain student and teachers, as far as there are any.
        truth: Image id -> objects.
        images: Image id -> its entry in COCO's form.
        files: Image id -> file.
        classes: Class names by category id.
        threshold: Detections below it are neither drawn nor matched.
        stories: Pictures for a reason.
        notes: What could not be shown, in words.
    """

    saved: Saved
    sides: tuple[Side, ...]
    truth: Mapping[int, Sequence[Entry]]
    images: Mapping[int, Entry]
    files: Mapping[int, Path]
    classes: Mapping[int, str]
    threshold: float
    stories: tuple[Story, ...]
    notes: tuple[str, ...] = field(default=())


def gather(
    saved: Saved, threshold: float = 0.3, most: int = 8, asked: Sequence[str] = (), against: Path | None = None
) -> Facts:
    """Read detections of the test split and choose pictures.

    Args:
        saved: The run.
        threshold: Detections with less than this score are neither drawn nor matched.
        most: Pictures per story.
        asked: Names of pictures to show in place of the stories (file name, or its end).
        against: Folder of the plain student's run; none takes the one beside the run.

    Raises:
        UsageError: The run kept no detections, or a picture is not among those of the split.
    """
    own = read_detections(saved.folder / DETECTIONS)
    if own is None:
        raise UsageError(f"{saved.folder} has no {DETECTIONS}: it was made by an older version. Next: run it again")
    split = open_data(saved.bench.data.format, saved.bench.data.options).splits["test"]
    document = split.coco
    if {image["id"] for image in document["images"]} != {image["id"] for image in own.images}:
        raise UsageError(f"{saved.folder}: the test split has other images now than when this run was measured")
    truth: dict[int, list[Entry]] = {image["id"]: [] for image in document["images"]}
    for one in document["annotations"]:
        truth[one["image_id"]].append(one)
    found, notes = _others(saved, against)
    sides = tuple(_side(name, findings, document, truth, threshold) for name, findings in (("student", own), *found))
    images = {image["id"]: image for image in document["images"]}
    files = {int(key): Path(file) for key, file in zip(split.annotations.ids, split.annotations.files)}
    stories = _asked(asked, images, most) if asked else _stories(sides, most)
    classes = {one["id"]: one["name"] for one in document["categories"]}
    return Facts(saved, sides, truth, images, files, classes, threshold, stories, notes)


def _side(
    name: str, findings: Findings, document: Mapping[str, Any], truth: Mapping[int, Sequence[Entry]], threshold: float
) -> Side:
    by_image = findings.by_image
    matched = {key: match(objects, by_image.get(key, ()), threshold) for key, objects in truth.items()}
    most = max([1, *map(len, by_image.values())])
    precision = Precision.of(complete(document), findings.evaluation.detections, most)
    return Side(name, findings.evaluation, by_image, matched, [float(value) for value in precision.curve()])


def _others(saved: Saved, against: Path | None) -> tuple[list[tuple[str, Findings]], tuple[str, ...]]:
    """Plain student and teachers, with what is missing of them."""
    found: list[tuple[str, Findings]] = []
    notes: list[str] = []
    plain = against or plain_student(saved)
    if plain is not None and (findings := read_detections(plain / DETECTIONS)) is not None:
        found.append(("plain student", findings))
    elif saved.method.method != BASELINE:
        notes.append("No plain student lies beside this run: kdflow run baseline on the same bench, with this seed.")
    for owner, teacher in (saved.result.teachers if saved.result else {}).items():
        if (findings := read_detections(Path(teacher.get("detections", "")))) is not None:
            found.append((owner, findings))
        else:
            notes.append(f"The detections of the {owner} are not kept any more.")
    return found, tuple(notes)


def plain_student(saved: Saved) -> Path | None:
    """Folder of the plain student on the same bench: of the same seed if there is one, the newest of them."""
    if saved.method.method == BASELINE:
        return None
    kept: list[tuple[bool, float, Path]] = []
    for file in saved.folder.parent.glob(f"{BASELINE}-s*/{RESULT}"):
        result = RunResult.read(file, lambda _: None)
        if result is not None and result.status == "finished" and (file.parent / DETECTIONS).is_file():
            kept.append((result.seed == saved.seed, file.stat().st_mtime, file.parent))
    return max(kept)[2] if kept else None


def _stories(sides: Sequence[Side], most: int) -> tuple[Story, ...]:
    student = sides[0]
    wrong = {key: len(one.missed) + len(one.false) for key, one in student.matched.items()}
    stories = [_story("Worst pictures", "Objects that the student misses, and what it claims wrongly.", wrong, most)]
    for other in sides[1:]:
        gained = {key: len(one.found - other.matched[key].found) for key, one in student.matched.items()}
        lost = {key: len(other.matched[key].found - one.found) for key, one in student.matched.items()}
        if other.name == "plain student":
            stories += [
                _story(
                    "What distillation gained",
                    "Objects that the student finds and the plain student misses.",
                    gained,
                    most,
                ),
                _story(
                    "What distillation lost", "Objects that the plain student finds and the student misses.", lost, most
                ),
            ]
        else:
            words = f"Objects that the {other.name} finds and the student misses."
            stories.append(_story(f"What the {other.name} finds and the student misses", words, lost, most))
    return tuple(stories)


def _story(title: str, words: str, counts: Mapping[int, int], most: int) -> Story:
    order = sorted((key for key, count in counts.items() if count), key=lambda key: (-counts[key], key))
    total = sum(counts.values())
    return Story(
        title, f"{words} {total} in {len(order)} of {len(counts)} pictures.", tuple(order[:most]), dict(counts)
    )


def _asked(names: Sequence[str], images: Mapping[int, Entry], most: int) -> tuple[Story, ...]:
    del most
    chosen: dict[str, list[int]] = defaultdict(list)
    for name in names:
        wanted = Path(name).name
        chosen[name] += [
            key for key, image in images.items() if wanted in (image["file_name"], Path(image["file_name"]).name)
        ]
        if not chosen[name]:
            raise UsageError(
                f"{name}: no picture of the test split has this name. Next: leave --images out, or use kdflow predict"
            )
    ids = tuple(dict.fromkeys(key for found in chosen.values() for key in found))
    return (Story("Chosen pictures", "Those that were asked for.", ids, dict.fromkeys(ids, 0)),)


def recalls() -> list[float]:
    """Recalls of the curves."""
    return [float(value) for value in np.linspace(0, 1, 101)]
