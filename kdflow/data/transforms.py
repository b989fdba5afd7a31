"""From an image on disk to a detector's input: resize, flip, boxes along with it (torchvision transforms v2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # noqa: N812  (torchvision's own name for it)

from kdflow.student.pictures import Pictures


@dataclass(frozen=True)
class Step:
    """One step of a recipe; fields beside ``name`` and ``p`` belong to one kind of step.

    Attributes:
        name: ``flip`` left and right; ``scale`` larger or smaller inside the same frame; ``crop`` a part and enlarge it;
            ``colour`` of all pixels; ``mosaic`` of four pictures; ``mixup`` of two.
        p: Probability that the step is taken.
        low: Least factor of ``scale``.
        high: Largest factor.
        least: Shortest side of a ``crop`` as a share of the picture's.
        brightness: Largest change of it, as a share.
        contrast: Likewise.
        saturation: Likewise.
        hue: Largest turn, as a share of the colour circle.
    """

    name: Literal["flip", "scale", "crop", "colour", "mosaic", "mixup"]
    p: float = 0.5
    low: float = 0.6
    high: float = 1.5
    least: float = 0.4
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02


@dataclass(frozen=True)
class Geometry:
    """How images reach the detectors.

    Attributes:
        size: Shorter side after resizing, pixels.
        max_size: Longest allowed side; an image that would be longer is made smaller.
        fixed: Resize to exactly ``size`` x ``size``, whatever the aspect ratio.
        flip: Probability of a horizontal flip in training; not read where there are steps of augmentation.
        augment: Steps of augmentation in training.
        resident: Keep resized images in memory, in the main process.
    """

    size: int = 800
    max_size: int = 1333
    fixed: bool = False
    flip: float = 0.5
    resident: bool = False
    augment: tuple[Step, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """What happens to a training picture after it was resized."""
        return self.augment or (Step("flip", p=self.flip),)

    @property
    def words(self) -> str:
        """The input size, for messages."""
        return f"{self.size}x{self.size}" if self.fixed else f"size {self.size} (max_size {self.max_size})"

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing an image of ``height`` x ``width``; see :meth:`Pictures.target`."""
        return self.pictures(1).target(height, width)

    def pictures(self, divisor: int, upright: bool = False) -> Pictures:
        """The same treatment for pictures without targets, as an exported student has it; ``upright`` where EXIF is applied."""
        return Pictures(self.size, self.max_size, self.fixed, divisor, upright)


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its training targets.

    Attributes:
        image: (3, H, W) uint8 RGB.
        boxes: (n, 4) float32 xyxy pixels of ``image``.
        labels: (n,) int64, 0-based.
        image_id: Identifier in the data set.
        original_size: (height, width) on disk.
    """

    image: tv_tensors.Image
    boxes: tv_tensors.BoundingBoxes
    labels: Tensor
    image_id: int
    original_size: tuple[int, int]


def resize(sample: Sample, size: tuple[int, int]) -> Sample:
    """Bilinear with antialiasing, as torchvision resizes; boxes are scaled by the exact ratio of each axis."""
    if tuple(sample.image.shape[-2:]) == size:
        return sample
    image = F.resize(sample.image, list(size), antialias=True)
    return replace(sample, image=image, boxes=F.resize(sample.boxes, list(size)))


def flip(sample: Sample) -> Sample:
    """Left and right exchanged."""
    return replace(sample, image=F.horizontal_flip(sample.image), boxes=F.horizontal_flip(sample.boxes))


def clean(sample: Sample) -> Sample:
    """Boxes cut at the image border; those under one pixel wide, high or large are dropped, with their labels."""
    boxes, keep = F.sanitize_bounding_boxes(F.clamp_bounding_boxes(sample.boxes), min_size=1.0, min_area=1.0)
    return replace(sample, boxes=boxes, labels=sample.labels[keep])


def as_boxes(boxes: Tensor, size: tuple[int, int]) -> tv_tensors.BoundingBoxes:
    """(n, 4) xyxy pixels as torchvision's boxes of a canvas of ``size`` (height, width)."""
    form = tv_tensors.BoundingBoxFormat.XYXY
    return tv_tensors.BoundingBoxes(boxes.to(torch.float32).reshape(-1, 4), format=form, canvas_size=size)
