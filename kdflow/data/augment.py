"""Augmentation of training pictures: a list of steps, each drawn from the random stream of one picture in one epoch.

Pictures have their input size before the first step and after the last. What torchvision's transforms v2 can do they do; mosaic
and mixup take further pictures of the split. A box of which less than :data:`VISIBLE` is left is left out, any other is cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # noqa: N812  (torchvision's own name for it)

from kdflow.data.transforms import Sample, Step, as_boxes, clean, flip, resize

VISIBLE = 0.25
"""Share of a box's area that must be left after a cut."""
GREY = 114
"""What is around a picture that was made smaller."""
SMALLEST = 8
"""Pixels of a side below which nothing is cropped."""
Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass
class Tally:
    """What steps did to boxes.

    Attributes:
        met: Boxes that a step moved or cut, counted at every step.
        cut: Those that lost a part.
        gone: Those of which too little was left.
    """

    met: int = 0
    cut: int = 0
    gone: int = 0

    def keep(self, before: Tensor, inside: Tensor) -> Tensor:
        """Which boxes (n, 4) of ``before`` are still to be seen, given what of them is ``inside``; counts them."""
        share = _areas(inside) / _areas(before).clamp(min=1e-6)
        kept = share >= VISIBLE
        kept &= (inside[:, 2:] - inside[:, :2] >= 1).all(dim=1)
        self.met += len(before)
        self.cut += int((kept & (share < 0.999)).sum())
        self.gone += int((~kept).sum())
        return kept


@dataclass(frozen=True)
class Around:
    """What a step needs beside the picture.

    Attributes:
        rng: The random stream of this picture in this epoch.
        length: Number of pictures in the split.
        get: Any of them at its input size, by index.
        target: Input size of a picture of any height and width.
        tally: Counts boxes.
    """

    rng: np.random.Generator
    length: int
    get: Callable[[int], Sample]
    target: Callable[[int, int], Size]
    tally: Tally = field(default_factory=Tally)

    def another(self) -> Sample:
        """Any picture of the split."""
        return self.get(int(self.rng.integers(self.length)))


def augment(sample: Sample, steps: Sequence[Step], around: Around) -> Sample:
    """A picture after all steps of a recipe, in their order.

    Args:
        sample: The picture at its input size.
        steps: What may happen to it.
        around: Its random stream, and the split that it is of.
    """
    for step in steps:
        if around.rng.random() < step.p:
            sample = _STEPS[step.name](sample, step, around)
    return sample


def flipped(sample: Sample, _: Step, __: Around) -> Sample:
    """Left and right exchanged."""
    return flip(sample)


def scaled(sample: Sample, step: Step, around: Around) -> Sample:
    """The content larger or smaller by one factor, the picture as large as before: cut at a random place, or set into grey."""
    factor = math.exp(around.rng.uniform(math.log(step.low), math.log(step.high)))
    (height, width), rng = size_of(sample), around.rng
    new = max(1, round(height * factor)), max(1, round(width * factor))
    down, right = _anywhere(rng, height, new[0]), _anywhere(rng, width, new[1])
    return placed([(resize(sample, new), (down, right), (0, 0, height, width))], sample, (height, width), around.tally)


def _anywhere(rng: np.random.Generator, side: int, length: int) -> int:
    """A place for ``length`` pixels in ``side`` pixels, or of which they leave nothing free where they are more."""
    return int(rng.integers(abs(side - length) + 1)) * (1 if length < side else -1)


def cropped(sample: Sample, step: Step, around: Around) -> Sample:
    """A random part that holds the centre of a box, at the input size again (torchvision's ``RandomIoUCrop``)."""
    if not len(sample.boxes) or min(size_of(sample)) < SMALLEST:
        return sample
    crop = v2.RandomIoUCrop(min_scale=step.least, max_scale=1.0, sampler_options=[0.0, 0.3, 0.7, 1.0], trials=20)
    with torch_stream(around.rng):
        image, boxes = crop(sample.image, sample.boxes)
    size = int(image.shape[-2]), int(image.shape[-1])
    inside = F.clamp_bounding_boxes(as_boxes(boxes.as_subclass(Tensor), size)).as_subclass(Tensor)
    kept = around.tally.keep(sample.boxes.as_subclass(Tensor), inside)
    cut = replace(sample, image=image, boxes=as_boxes(inside[kept], size), labels=sample.labels[kept])
    return clean(resize(cut, around.target(*size)))


def coloured(sample: Sample, step: Step, around: Around) -> Sample:
    """Brightness, contrast, saturation and hue changed, in random order (torchvision's ``ColorJitter``)."""
    jitter = v2.ColorJitter(step.brightness, step.contrast, step.saturation, step.hue)
    with torch_stream(around.rng):
        return replace(sample, image=jitter(sample.image))


def mosaic(sample: Sample, _: Step, around: Around) -> Sample:
    """Four pictures around a point near the middle, each made smaller, in a picture as large as the first."""
    (height, width), rng = size_of(sample), around.rng
    y, x = round(height * rng.uniform(0.35, 0.65)), round(width * rng.uniform(0.35, 0.65))
    windows = ((0, 0, y, x), (0, x, y, width), (y, 0, height, x), (y, x, height, width))
    pictures = [sample, around.another(), around.another(), around.another()]
    return placed(
        [_filling(one, window, rng) for one, window in zip(pictures, windows)], sample, (height, width), around.tally
    )


def mixed(sample: Sample, _: Step, around: Around) -> Sample:
    """The mean of two pictures, with the boxes of both."""
    size = size_of(sample)
    other = resize(around.another(), size)
    both = torch.stack([sample.image.as_subclass(Tensor), other.image.as_subclass(Tensor)]).to(torch.int16)
    boxes = torch.cat([sample.boxes.as_subclass(Tensor), other.boxes.as_subclass(Tensor)])
    image = tv_tensors.Image((both.sum(dim=0) // 2).to(torch.uint8))
    return clean(
        replace(sample, image=image, boxes=as_boxes(boxes, size), labels=torch.cat([sample.labels, other.labels]))
    )


Window = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels."""
Part = tuple[Sample, tuple[int, int], Window]
"""A picture, where its upper left corner lies (y, x), and what of the whole it may fill."""


def placed(parts: Sequence[Part], like: Sample, size: Size, tally: Tally) -> Sample:
    """One picture of parts on grey; boxes are cut at the windows."""
    image = torch.full((3, *size), GREY, dtype=torch.uint8)
    boxes, labels = [], []
    for part, (down, right), (top, left, bottom, end) in parts:
        height, width = size_of(part)
        rows = slice(max(top, down), min(bottom, down + height))
        columns = slice(max(left, right), min(end, right + width))
        if rows.start < rows.stop and columns.start < columns.stop:
            inner = part.image[:, rows.start - down : rows.stop - down, columns.start - right : columns.stop - right]
            image[:, rows, columns] = inner.as_subclass(Tensor)
        moved = part.boxes.as_subclass(Tensor) + torch.tensor([right, down, right, down], dtype=torch.float32)
        low = torch.tensor([left, top, left, top], dtype=torch.float32)
        high = torch.tensor([end, bottom, end, bottom], dtype=torch.float32)
        inside = torch.minimum(torch.maximum(moved, low), high)
        kept = tally.keep(moved, inside)
        boxes.append(inside[kept])
        labels.append(part.labels[kept])
    whole = replace(
        like, image=tv_tensors.Image(image), boxes=as_boxes(torch.cat(boxes), size), labels=torch.cat(labels)
    )
    return clean(whole)


def _filling(sample: Sample, window: Window, rng: np.random.Generator) -> Part:
    """The picture at half its size, or as much as the window needs, at a random place that leaves nothing of the window free."""
    top, left, bottom, right = window
    height, width = size_of(sample)
    factor = max(0.5, (bottom - top) / height, (right - left) / width)
    small = resize(sample, (max(bottom - top, round(height * factor)), max(right - left, round(width * factor))))
    spare = size_of(small)[0] - (bottom - top), size_of(small)[1] - (right - left)
    return small, (top - int(rng.integers(spare[0] + 1)), left - int(rng.integers(spare[1] + 1))), window


@contextmanager
def torch_stream(rng: np.random.Generator) -> Iterator[None]:
    """Torch's own random numbers, which torchvision draws from, follow ``rng`` inside, and go on unchanged behind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        yield


def size_of(sample: Sample) -> Size:
    """Height and width of a picture."""
    return int(sample.image.shape[-2]), int(sample.image.shape[-1])


def _areas(boxes: Tensor) -> Tensor:
    plain = boxes.as_subclass(Tensor)
    return (plain[:, 2:] - plain[:, :2]).clamp(min=0).prod(dim=1)


_STEPS: Mapping[str, Callable[[Sample, Step, Around], Sample]] = {
    "flip": flipped,
    "scale": scaled,
    "crop": cropped,
    "colour": coloured,
    "mosaic": mosaic,
    "mixup": mixed,
}
