"""Batches by global step: batch ``k`` depends on the seed and on ``k``, never on the number of loader processes.

The training images form one endless stream, one fresh permutation after another; global batch ``k`` is its ``k``-th piece,
of which every rank takes its share. An epoch's permutation is drawn from (seed, epoch), an image's augmentation from (seed,
epoch, image id). A restart at step ``k`` therefore continues exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from kdflow.data.augment import Around, Tally, augment
from kdflow.data.dataset import DetectionSet
from kdflow.data.formats import Split
from kdflow.data.transforms import Geometry, Sample
from kdflow.errors import DataError
from kdflow.ports import Batch

_ORDER, _AUGMENT = 0, 1
"""What a stream of random numbers is for: the last part of its key."""


@dataclass(frozen=True)
class Place:
    """One sample to be made: ``epoch`` is None where nothing is augmented."""

    index: int
    epoch: int | None = None


class TrainOrder(Sampler[list[Place]]):
    """Endless batches of one rank, from ``start_step`` on.

    Args:
        images: Images in the split.
        batch_size: Images per rank and step.
        seed: Seed of the permutations.
        start_step: First step.
        rank: This rank.
        world_size: Ranks that share each step.
    """

    def __init__(
        self, images: int, batch_size: int, seed: int, start_step: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.rank = rank
        self.world_size = world_size
        self._permutation: tuple[int, NDArray[np.int64]] | None = None

    def __iter__(self) -> Iterator[list[Place]]:
        first = (self.start_step * self.world_size + self.rank) * self.batch_size
        while True:
            yield [self._at(position) for position in range(first, first + self.batch_size)]
            first += self.world_size * self.batch_size

    def _at(self, position: int) -> Place:
        """The sample at a position of the endless stream."""
        epoch, within = divmod(position, self.images)
        if self._permutation is None or self._permutation[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch, _ORDER))
            self._permutation = epoch, rng.permutation(self.images)
        return Place(int(self._permutation[1][within]), epoch)


class EvaluationOrder(Sampler[list[Place]]):
    """This rank's part of all images, once, in order; ranks take turns image by image."""

    def __init__(self, images: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, images, world_size)
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[Place]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield [Place(index) for index in self.indices[start : start + self.batch_size]]

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)


class Prepared(Dataset[Sample | str]):
    """Samples at the detector's input size, augmented; a broken image gives the message about it instead.

    An exception would reach the user through a loader process as a traceback inside a traceback.
    """

    def __init__(self, dataset: DetectionSet, geometry: Geometry, seed: int) -> None:
        self.dataset = dataset
        self.geometry = geometry
        self.seed = seed

    def __getitem__(self, place: Place) -> Sample | str:
        return self.at(place, Tally())

    def at(self, place: Place, tally: Tally) -> Sample | str:
        """The sample of a place; what is done to its boxes is counted."""
        try:
            sample = self.dataset.resized(place.index, self.geometry)
            if place.epoch is None:
                return sample
            rng = np.random.default_rng((self.seed, place.epoch, sample.image_id, _AUGMENT))
            around = Around(rng, len(self.dataset), self._resized, self.geometry.target, tally)
            return augment(sample, self.geometry.steps, around)
        except DataError as error:
            return str(error)

    def _resized(self, index: int) -> Sample:
        return self.dataset.resized(index, self.geometry)


@dataclass(frozen=True)
class RawBatch:
    """What a loader process hands over: uint8 images, a quarter of the bytes to move, and all boxes in one tensor.

    Attributes:
        images: (B, 3, H, W) uint8.
        boxes: (N, 4) boxes of all images, one image after another.
        labels: (N,) their labels.
        counts: Boxes of each image.
        rest: Batch fields that are no tensors.
        fault: The message about a broken image; the batch is then of no use.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    counts: list[int]
    rest: dict[str, Any]
    fault: str = ""

    def pin_memory(self) -> RawBatch:
        """Called by torch's DataLoader; pinned memory is copied to a GPU while it computes."""
        return replace(
            self, images=self.images.pin_memory(), boxes=self.boxes.pin_memory(), labels=self.labels.pin_memory()
        )

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``, images as floats in 0..1, the same bits on every device.

        Divided by a tensor: by a number, a GPU would multiply with its reciprocal, which is off by a bit at some values.
        """
        images, boxes, labels = (t.to(device, non_blocking=True) for t in (self.images, self.boxes, self.labels))
        return Batch(
            images=images.to(torch.float32).div_(torch.full((), 255.0, device=device)),
            boxes=list(boxes.split(self.counts)),
            labels=list(labels.split(self.counts)),
            **self.rest,
        )


@dataclass(frozen=True)
class Collate:
    """Samples on one canvas of zeros; its sides are the largest of the batch, rounded up to multiples of ``divisor``."""

    divisor: int

    def __call__(self, samples: list[Sample | str]) -> RawBatch:
        """The batch; images lie top left on the canvas, so boxes stay as they are."""
        faults = [sample for sample in samples if isinstance(sample, str)]
        if faults:
            nothing = torch.empty(0)
            return RawBatch(nothing, nothing, nothing, [], {}, "\n".join(faults))
        good = [sample for sample in samples if isinstance(sample, Sample)]
        sizes = [(int(sample.image.shape[-2]), int(sample.image.shape[-1])) for sample in good]
        height, width = (-(-max(sides) // self.divisor) * self.divisor for sides in zip(*sizes))
        images = torch.zeros(len(good), 3, height, width, dtype=torch.uint8)
        for canvas, sample, (h, w) in zip(images, good, sizes):
            canvas[:, :h, :w] = sample.image
        return RawBatch(
            images=images,
            boxes=torch.cat([sample.boxes.as_subclass(Tensor) for sample in good]),
            labels=torch.cat([sample.labels for sample in good]),
            counts=[len(sample.labels) for sample in good],
            rest={
                "image_sizes": sizes,
                "image_ids": [sample.image_id for sample in good],
                "original_sizes": [sample.original_size for sample in good],
            },
        )


class BatchLoader:
    """Batches of one split on the wanted device, images as floats in 0..1. Every ``iter()`` starts at the first step.

    Args:
        loader: torch's loader of raw batches.
        images: Images in the split.
        per_step: Images per step over all ranks.
        device: Where batches go.
    """

    def __init__(self, loader: DataLoader[Any], images: int, per_step: int, device: torch.device) -> None:
        self.loader = loader
        self.images = images
        self.per_step = per_step
        self.device = device

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every image has been seen once; the last of them may begin the next epoch."""
        return -(-self.images // self.per_step)

    def __len__(self) -> int:
        """Batches of this rank in an evaluation; endless training loaders have no length and raise TypeError."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        """Raises DataError, with the file's name, at a batch with a missing or broken image."""
        for raw in self.loader:
            if raw.fault:
                raise DataError(raw.fault)
            yield raw.to(self.device)


def make_loader(
    split: Split,
    geometry: Geometry,
    *,
    batch_size: int,
    train: bool,
    seed: int,
    workers: int,
    size_divisor: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
) -> BatchLoader:
    """A loader of one split.

    Args:
        split: What to load.
        geometry: Size, flip and memory.
        batch_size: Images per rank and step.
        train: Endless, shuffled and augmented; else finite, in order, not augmented, each image once over all ranks.
        seed: Seed of order and augmentation.
        workers: Loader processes; with 0, and with ``geometry.resident``, the caller's process does the work.
        size_divisor: Canvas sides are multiples of this.
        start_step: First step of training.
        rank: This rank.
        world_size: Number of ranks.
        device: Where batches go; memory is pinned for a GPU.
    """
    device = torch.device(device)
    images = len(split)
    order = (
        TrainOrder(images, batch_size, seed, start_step, rank, world_size)
        if train
        else EvaluationOrder(images, batch_size, rank, world_size)
    )
    loader: DataLoader[Any] = DataLoader(
        Prepared(split.dataset, geometry, seed),
        batch_sampler=order,
        num_workers=0 if geometry.resident else workers,
        collate_fn=Collate(size_divisor),
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # torch would draw the processes' seed from the global generator
    )
    return BatchLoader(loader, images, batch_size * world_size, device)
