"""A student shown pictures: what it finds, as JSON and drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchvision.transforms.v2 import functional as transforms

from kdflow.engine.machine import open_machine
from kdflow.errors import UsageError
from kdflow.files import in_words, replacing, write_json
from kdflow.folders import slug
from kdflow.using.drawn import Box, colour_of, draw
from kdflow.using.finder import Finder
from kdflow.using.forms import open_finder
from kdflow.using.sights import Sight, files_of, sights

JSON = "predictions.json"


@dataclass(frozen=True)
class Detection:
    """An object that was found.

    Attributes:
        name: Class.
        label: Its 0-based number.
        score: In 0..1.
        box: x1, y1, x2, y2 in pixels of the picture.
    """

    name: str
    label: int
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Prediction:
    """What was found in a picture.

    Attributes:
        image: Its path, with ``#12`` behind it for frame 12 of a video.
        width: Pixels.
        height: Pixels.
        detections: Best first.
        drawn: File of the drawn picture, None where none was asked for.
    """

    image: str
    width: int
    height: int
    detections: tuple[Detection, ...]
    drawn: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        found = [{"class": d.name, "label": d.label, "score": d.score, "box": list(d.box)} for d in self.detections]
        return {
            "image": self.image,
            "width": self.width,
            "height": self.height,
            "detections": found,
            "drawn": self.drawn,
        }


def predictions(
    run: str | Path,
    paths: Sequence[str | Path],
    output: str | Path | None = None,
    threshold: float = 0.5,
    owner: str = "student",
    device: str = "auto",
) -> Iterator[Prediction]:
    """:func:`kdflow.api.predict`, one picture at a time; ``predictions.json`` is written after the last one."""
    if not paths:
        raise UsageError("nothing to look at. Next: name an image, a folder of images, or a video")
    if not 0 <= threshold <= 1:
        raise UsageError(f"the threshold is a score in 0..1, not {threshold:g}")
    files = files_of(paths)
    folder = None if output is None else Path(output)
    done: list[Prediction] = []
    with open_machine(device) as machine:
        finder = open_finder(run, owner, machine.device)
        for number, sight in enumerate(sights(files, finder.upright)):
            done.append(_predicted(finder, sight, threshold, None if folder is None else folder / _name(number, sight)))
            yield done[-1]
    if folder is not None:
        write_json(folder / JSON, [one.as_json() for one in done])


def _predicted(finder: Finder, sight: Sight, threshold: float, file: Path | None) -> Prediction:
    found = finder.find(sight.image, threshold)
    rows = zip(found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist())
    detections = tuple(Detection(finder.classes[label], label, score, tuple(box)) for label, score, box in rows)
    if file is not None:
        boxes = [Box(d.box, f"{d.name} {d.score:.2f}", colour_of(d.label)) for d in detections]
        drawn = draw(transforms.to_pil_image(sight.image), reversed(boxes))  # the best on top
        with in_words(file), replacing(file) as draft:
            drawn.save(draft, format="PNG")
    return Prediction(sight.name, sight.size[1], sight.size[0], detections, None if file is None else str(file))


def _name(number: int, sight: Sight) -> str:
    """A file name of its own for every picture, whatever the pictures are called."""
    frame = "" if sight.frame is None else f"-{sight.frame:06}"
    return f"{number:05}-{slug(sight.file.stem)}{frame}.png"
