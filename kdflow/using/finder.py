"""What finds objects in a picture: a detector that treats it as its evaluation did, or an exported student's own code."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdflow.engine.evaluate import to_disk
from kdflow.errors import UsageError
from kdflow.folders import expand
from kdflow.ports import Detector
from kdflow.student.pictures import Pictures
from kdflow.using.saved import STUDENT, reopen, run_folder

CODE = "student.py"
Objects = Mapping[str, Tensor]
"""``boxes`` (n, 4) xyxy pixels of the picture, ``scores`` (n,), ``labels`` (n,) 0-based, best first."""


@dataclass(frozen=True, eq=False)
class Finder:
    """Finds objects.

    Attributes:
        classes: Class names in label order.
        upright: Pictures have to be turned as their EXIF orientation says.
        look: (3, H, W) uint8 -> everything that is found in it, in any order.
    """

    classes: tuple[str, ...]
    upright: bool
    look: Callable[[Tensor], Objects]

    def find(self, image: Tensor, threshold: float = 0.0) -> Objects:
        """What is found with more than this score in a (3, H, W) uint8 picture, best first."""
        found = {name: torch.as_tensor(values).cpu() for name, values in self.look(image).items() if name in _KEYS}
        order = found["scores"].argsort(descending=True, stable=True)
        order = order[found["scores"][order] > threshold]
        return {name: values[order] for name, values in found.items()}


_KEYS = ("boxes", "scores", "labels")


def finder_of(detector: Detector, pictures: Pictures, device: torch.device | str = "cpu") -> Finder:
    """A detector that sees a picture alone, treated as in the evaluation."""
    detector.model.to(device).eval()

    @torch.no_grad()
    def look(image: Tensor) -> Objects:
        resized = pictures.resized(image)
        size, original = _size(resized), _size(image)
        (found,) = detector.predict(pictures.padded(resized)[None].to(device), [size])
        return {**found, "boxes": to_disk(found["boxes"], size, original)}

    return Finder(detector.classes, pictures.upright, look)


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[-2]), int(image.shape[-1])


def open_finder(place: str | Path, owner: str = "student", device: torch.device | str = "cpu") -> Finder:
    """The student (or a teacher) of a run, or the student in a folder that was exported.

    Args:
        place: A run's folder or name, or a folder with ``student.py`` and its weights. The latter's code is run.
        owner: ``student``, or the name of a teacher of the run.
        device: Where it computes.

    Raises:
        UsageError: There is no such student, or it cannot be built.
    """
    folder = expand(place)
    folder = folder.parent if folder.name == STUDENT else folder
    if run_folder(place) is None and (folder / CODE).is_file():
        if owner != "student":
            raise UsageError(f"{folder}: only the student lies there, no {owner}")
        return exported(folder, device)
    saved = reopen(place)
    detector = saved.student() if owner == "student" else saved.teacher(owner)
    return finder_of(detector, saved.pictures, device)


def exported(folder: Path, device: torch.device | str = "cpu") -> Finder:
    """The student in an exported folder, by the code that lies there."""
    described = importlib.util.spec_from_file_location("exported_student", folder / CODE)
    if described is None or described.loader is None:
        raise UsageError(f"{folder / CODE} cannot be imported")
    module: Any = importlib.util.module_from_spec(described)
    try:
        described.loader.exec_module(module)
        model = module.load()
    except (OSError, RuntimeError, ImportError, SyntaxError) as error:
        raise UsageError(f"{folder}: this student cannot be loaded: {str(error).splitlines()[0]}") from error
    model.to(device)
    return Finder(
        tuple(module.CLASSES), module.PICTURES.upright, lambda image: module.predict(image, model, threshold=-1.0)
    )
