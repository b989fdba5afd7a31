"""Paired differences over seeds: their interval, the chance of such a difference, and what follows from it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Word = Literal["better", "worse", "undecided"]

CONFIDENCE = 0.95
MOST_SEEDS = 1000
"""More are not counted when it is asked how many would decide."""


@dataclass(frozen=True)
class Paired:
    """Differences of two students, seed by seed.

    Attributes:
        count: Seeds.
        mean: Mean difference.
        spread: Sample standard deviation of the differences; None for one seed.
        low: Lower end of the 95 % interval of the mean (Student's t); None for one seed.
        high: Upper end.
        p: Two-sided chance of a mean at least as far from 0 where there is no difference; 1 for one seed.
    """

    count: int
    mean: float
    spread: float | None
    low: float | None
    high: float | None
    p: float


def paired(differences: Sequence[float], confidence: float = CONFIDENCE) -> Paired:
    """Student's t for paired values.

    Equal differences have no spread: the mean then is what it is, with p 0 where it is not 0.

    Args:
        differences: One per seed, at least one.
        confidence: Of the interval.
    """
    count, mean = len(differences), statistics.fmean(differences)
    if count < 2:
        return Paired(count, mean, None, None, None, 1.0)
    spread = statistics.stdev(differences)
    half = reach(count, spread, confidence)
    error = spread / math.sqrt(count)
    if error == 0:
        return Paired(count, mean, spread, mean, mean, 1.0 if mean == 0 else 0.0)
    chance = float(2 * _t().sf(abs(mean) / error, count - 1))
    return Paired(count, mean, spread, mean - half, mean + half, chance)


def reach(count: int, spread: float, confidence: float = CONFIDENCE) -> float:
    """Half the width of the interval of a mean: the least difference that so many seeds of this spread can tell from 0."""
    return float(_t().ppf(0.5 + confidence / 2, count - 1)) * spread / math.sqrt(count)


def holm(chances: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: the smallest times their number, the next times one less, never falling."""
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    adjusted, largest = [0.0] * len(chances), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[i]))
        adjusted[i] = largest
    return adjusted


def word(mean: float, adjusted: float, confidence: float = CONFIDENCE) -> Word:
    """The verdict: undecided unless the adjusted p is below what the confidence leaves."""
    if adjusted >= 1 - confidence or mean == 0:
        return "undecided"
    return "better" if mean > 0 else "worse"


def seeds_to_decide(found: Paired, confidence: float = CONFIDENCE) -> int | None:
    """Seeds that would decide at this mean and spread; None where even :data:`MOST_SEEDS` would not, or nothing is known."""
    if found.spread is None or found.mean == 0:
        return None
    return next((n for n in range(2, MOST_SEEDS + 1) if reach(n, found.spread, confidence) < abs(found.mean)), None)


def _t() -> Any:
    from scipy.stats import t  # half a second that commands without statistics need not wait

    return t
