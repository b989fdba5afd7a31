"""A tiny form of every registered detector, and a batch that it takes. A new detector adds one line here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from kdflow.ports import Batch
from tests.detectors import hf_tiny, test_dense, test_faster_rcnn, test_gfl
from tests.detectors.library import make_batch

TINY: dict[str, Callable[[int], Any]] = {
    "faster-rcnn": lambda seed: test_faster_rcnn.tiny(seed),
    **{name: lambda seed, name=name: test_dense.tiny(name, seed) for name in test_dense.TINY},
    **{name: lambda seed, name=name: test_gfl.tiny(name, seed) for name in test_gfl.NAMES},
    **{name: lambda seed, name=name: hf_tiny.build(name, seed) for name in hf_tiny.NAMES},
}
SQUARE = ((96, 96), (96, 96))
RAGGED = ((64, 96), (96, 64))
PADDED = frozenset({"faster-rcnn", "retinanet", "fcos", "gfl", "atss", *hf_tiny.MASKED})
"""Detectors that take images of unequal size; the others want every image to fill the canvas."""

_BUILT: dict[tuple[str, int], Any] = {}


def detector_of(name: str, seed: int = 0) -> Any:
    """A fresh tiny detector; building is slower than copying."""
    if (name, seed) not in _BUILT:
        _BUILT[name, seed] = TINY[name](seed)
    return copy.deepcopy(_BUILT[name, seed])


def batch_for(name: str, counts: tuple[int, int] = (3, 1)) -> Batch:
    """Two images of 96 x 96 or less with ``counts`` objects of the first three classes."""
    return make_batch(counts, RAGGED if name in PADDED else SQUARE)
