"""What a data set is like, as far as a bench depends on it: sizes of images and objects, and the input size that fits them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdflow.data.annotations import Annotations
from kdflow.data.transforms import Geometry

STEP = 32
"""Input sizes are multiples of this."""
LEAST, MOST = 256, 800
"""Bounds of the input size that is proposed."""
WANTED = 32.0
"""Pixels that nine of ten objects should be wide and high: four cells of the finest map of most detectors."""


@dataclass(frozen=True)
class Survey:
    """What the training split is like.

    Attributes:
        images: Number of images by split.
        objects: Training targets in ``train``.
        height: Median height of the images.
        width: Median width.
        aspect: Longer side / shorter side that nineteen of twenty images stay below.
        smallest: Shorter side of an object, as a share of the image's shorter side, that nine of ten objects exceed.
    """

    images: Mapping[str, int]
    objects: int
    height: int
    width: int
    aspect: float
    smallest: float

    @property
    def side(self) -> int:
        """Median shorter side of the images."""
        return min(self.height, self.width)

    @property
    def size(self) -> int:
        """The least multiple of 32 at which nine of ten objects are 32 pixels wide and high; never above the images' own side."""
        wanted = WANTED / self.smallest if self.smallest > 0 else MOST
        most = max(LEAST, min(MOST, self.side // STEP * STEP))
        return int(min(most, max(LEAST, math.ceil(wanted / STEP) * STEP)))

    def longest(self, size: int) -> int:
        """Longest side at an input size, rounded up to a multiple of 32, at which hardly any image is made smaller."""
        return math.ceil(size * self.aspect / STEP) * STEP

    def megabytes(self, size: int) -> float:
        """Memory that the resized training images take."""
        return self.images["train"] * size * size * self.aspect * 3 / 2**20


def survey(tables: Mapping[str, Annotations]) -> Survey:
    """Look at the annotations of a data set; ``train`` decides, and has images."""
    train = tables["train"]
    shorter = train.sizes.min(axis=1)
    used = ~train.ignored & (train.boxes[:, 2:] > 0).all(axis=1)
    shares = train.boxes[used][:, 2:].min(axis=1) / np.maximum(shorter[train.owners[used]], 1)
    height, width = np.median(train.sizes, axis=0).astype(int).tolist()
    aspect = float(np.quantile(train.sizes.max(axis=1) / np.maximum(shorter, 1), 0.95))
    smallest = float(np.quantile(shares, 0.1)) if len(shares) else 0.0
    return Survey(
        {name: len(table) for name, table in tables.items()}, int(used.sum()), height, width, aspect, smallest
    )


def sides_at(
    table: Annotations, geometry: Geometry, good: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Width and height (N, 2) in pixels of training targets at an input size, and weights (N,) by which classes count alike.

    Args:
        table: Annotations; images without a size have no targets here.
        geometry: The input size.
        good: (all boxes,) which of them count; none: all. Those below one pixel never do.
    """
    sizes = [(w, h) if min(h, w) > 0 else (0, 0) for h, w in table.sizes.tolist()]
    targets = np.array([geometry.target(h, w)[::-1] if w else (0, 0) for w, h in sizes], dtype=np.float64).reshape(-1, 2)
    factor = (targets / np.maximum(table.sizes[:, ::-1], 1))[table.owners]
    kept = ~table.ignored & (True if good is None else good)
    found = np.where(kept[:, None], table.boxes[:, 2:], 0) * factor
    kept &= (found >= 1).all(axis=1)
    labels = table.labels[kept]
    weights = 1 / np.maximum(np.bincount(labels, minlength=len(table.classes)), 1)[labels]
    return found[kept], weights
