"""What finds objects in a picture, whatever it is made of, and a detector that treats pictures as its evaluation did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kdflow.engine.evaluate import to_disk
from kdflow.ports import Detector
from kdflow.student.pictures import Pictures

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
