"""A tiny form of every registered detector, and a batch that it takes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from kdflow.ports import DETECTORS, Batch
from tests.contracts import own_module
from tests.detectors import hf_tiny
from tests.detectors.library import make_batch
from tests.detectors.staging import run_stages

NAMES = [name for name in DETECTORS.names() if DETECTORS.get(name).stands_alone]
"""Detectors that are built without being told of a model; the others have tests of their own."""
TOLD = {"features": {"model": "timm:test_vit", "pretrained": None}, "module": own_module.OPTIONS}
"""A model for each of the others."""
CLASSES = ("disc", "square", "star")
SQUARE = ((96, 96), (96, 96))
RAGGED = ((64, 96), (96, 64))

_BUILT: dict[tuple[str, int], Any] = {}


def detector_of(name: str, seed: int = 0) -> Any:
    """A fresh tiny detector; building is slower than copying."""
    if (name, seed) not in _BUILT:
        _BUILT[name, seed] = _built(name, seed)
    return copy.deepcopy(_BUILT[name, seed])


def _built(name: str, seed: int) -> Any:
    family = DETECTORS.get(name)
    if family.library == "transformers":
        return hf_tiny.build(name, seed)
    torch.manual_seed(seed)
    return settled(family.build(CLASSES, **(family.tiny if family.stands_alone else TOLD[name])))


def settled(detector: Any) -> Any:
    """The detector with the statistics of a batch in its BatchNorms: fresh ones let hardly any signal through in evaluation."""
    norms = [m for m in detector.model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        run_stages(detector, batch_for(detector.name), seed=0)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    return detector


def batch_for(name: str, counts: tuple[int, int] = (3, 1)) -> Batch:
    """Two images of 96 x 96 or less with ``counts`` objects of the first three classes."""
    return make_batch(counts, RAGGED if DETECTORS.get(name).ragged else SQUARE)
