"""Anchors that fit the boxes of a data set: one scale for all levels of a pyramid, and the aspect ratios."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLED = 2000
"""Boxes that a fit looks at."""
SCALES = tuple(2 ** (k / 4) for k in range(0, 17))
"""Sides of the smallest anchor of a level in strides, 1 to 16."""


@dataclass(frozen=True)
class Anchors:
    """Anchors of a pyramid.

    Attributes:
        sizes: Sides in pixels, per level.
        ratios: Height / width.
        fit: Weighted mean over the boxes of the best IoU with an anchor that lies a quarter of a stride beside, 0..1.
    """

    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...]
    fit: float


def fit_anchors(
    sides: NDArray[np.float64],
    weights: NDArray[np.float64],
    strides: Sequence[int],
    given: tuple[tuple[float, ...], ...],
    ratios: Sequence[float],
) -> tuple[Anchors, Anchors]:
    """The anchors that fit best, and the given ones.

    A level keeps its number of anchors and their proportions; all levels are scaled alike in their strides, so that large anchors
    stay on coarse levels. Ratios are those given, or the lower, middle and upper ones of the boxes, whichever fits better.

    Args:
        sides: (N, 2) width and height of boxes at the input size, pixels; N > 0.
        weights: (N,) how much each box counts, above 0.
        strides: Pixels per cell, per level.
        given: The detector's own sides, per level.
        ratios: Its own ratios, height / width.
    """
    every = max(1, len(sides) // SAMPLED)
    some, counts = sides[::every], weights[::every]
    shape = [side / given[0][0] for side in given[0]]
    own = Anchors(given, tuple(ratios), mean_best(some, counts, strides, given, ratios))
    found = tuple(float(np.round(r, 2)) for r in np.quantile(some[:, 1] / some[:, 0], (0.15, 0.5, 0.85)))
    best = own
    for scale, tried in itertools.product(SCALES, (tuple(ratios), found)):
        sizes = tuple(tuple(float(round(s * stride * scale)) for s in shape) for stride in strides)
        fit = mean_best(some, counts, strides, sizes, tried)
        if fit > best.fit:
            best = Anchors(sizes, tried, fit)
    return best, own


def mean_best(
    sides: NDArray[np.float64],
    weights: NDArray[np.float64],
    strides: Sequence[int],
    sizes: Sequence[Sequence[float]],
    ratios: Sequence[float],
) -> float:
    """Weighted mean over the boxes of the best IoU with an anchor; centres differ by a quarter of the level's stride each way."""
    best = np.zeros(len(sides))
    for stride, level in zip(strides, sizes):
        for side, ratio in itertools.product(level, ratios):
            best = np.maximum(best, _iou(sides, np.array([side / ratio**0.5, side * ratio**0.5]), stride / 4))
    return float(np.average(best, weights=weights))


def _iou(sides: NDArray[np.float64], anchor: NDArray[np.float64], offset: float) -> NDArray[np.float64]:
    reach = (sides + anchor) / 2 - offset
    both = np.clip(np.minimum(reach, np.minimum(sides, anchor)), 0, None).prod(axis=1)
    found: NDArray[np.float64] = both / (sides.prod(axis=1) + anchor.prod() - both)
    return found
