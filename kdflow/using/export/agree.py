"""Whether two forms of a detector find the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from kdflow.using.finder import Finder, Objects

BEST = 100
SCORE, IOU, PIXELS, MISSED = 0.01, 0.98, 0.5, 0.005
"""The tolerance: a detection has its counterpart where class, score and box are this near; this share may lack one."""
IN_WORDS = (
    f"of the best {BEST} detections of a picture, on either side, all but {MISSED:.1%} have one of the same class on the other "
    f"side, within {SCORE} of the score, and an IoU of {IOU} or corners within {PIXELS} pixels"
)


@dataclass(frozen=True)
class Agreement:
    """How two forms compare.

    Attributes:
        pictures: How many were shown to both.
        compared: Detections that needed a counterpart.
        missed: Those that have none.
    """

    pictures: int
    compared: int
    missed: int

    @property
    def holds(self) -> bool:
        """Whether the tolerance is kept, on detections enough to say so."""
        return self.compared > 0 and self.missed <= MISSED * self.compared

    @property
    def words(self) -> str:
        """For people."""
        if not self.compared:
            return f"nothing was found in {self.pictures} pictures, so nothing can be compared"
        return f"{self.missed} of {self.compared} detections in {self.pictures} pictures have no counterpart"


def compare(own: Finder, other: Finder, pictures: Iterable[Tensor], threshold: float = 0.0) -> Agreement:
    """Show pictures to both; the classes of both are the same."""
    count = compared = missed = 0
    for image in pictures:
        ours, theirs = own.find(image, threshold), other.find(image, threshold)
        count += 1
        for one, two in ((ours, theirs), (theirs, ours)):
            compared += min(BEST, len(one["scores"]))
            missed += lacking({key: values[:BEST] for key, values in one.items()}, two)
    return Agreement(count, compared, missed)


def lacking(one: Objects, two: Objects) -> int:
    """How many of ``one`` have no counterpart in ``two``; nothing is counterpart to two."""
    free = torch.ones(len(two["scores"]), dtype=torch.bool)
    lack = 0
    for box, score, label in zip(one["boxes"].double(), one["scores"].double(), one["labels"]):
        fits = free & (two["labels"] == label) & ((two["scores"].double() - score).abs() <= SCORE)
        near = torch.where(fits)[0]
        if len(near):
            others = two["boxes"].double()[near]
            overlap = box_iou(box[None], others)[0]
            close = (overlap >= IOU) | ((others - box).abs().amax(1) <= PIXELS)
            near = near[close]
        if len(near):
            free[near[0]] = False
        else:
            lack += 1
    return lack
