"""The methods' formulas, written once more in plain torch, and inputs of other shapes than the golden cases have.

One file per method: ``cases()`` gives inputs under the golden cases' keys, ``reference(case)`` the values that are expected.
``DIFFERENTIATED`` names the values whose gradients are compared as well, by the prefix of their keys; ``total`` unless said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Case = Mapping[str, Tensor]
Arrays = dict[str, np.ndarray]


class Draw:
    """Random inputs of one case."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.arrays: Arrays = {}

    def set(self, **values: Any) -> Draw:
        """Settings, as ``hp.NAME``."""
        self.arrays.update({f"hp.{name}": np.asarray(value) for name, value in values.items()})
        return self

    def normal(self, key: str, *shape: int, scale: float = 1.0) -> Draw:
        self.arrays[key] = (self.random.standard_normal(shape) * scale).astype(np.float32)
        return self

    def maps(self, key: str, batch: int, channels: int | Sequence[int], sizes: Sequence[tuple[int, int]]) -> Draw:
        """One map per size."""
        widths = [channels] * len(sizes) if isinstance(channels, int) else channels
        for level, (size, width) in enumerate(zip(sizes, widths, strict=True)):
            self.normal(f"{key}.{level}", batch, width, *size)
        return self

    def boxes(self, counts: Sequence[int], size: tuple[int, int], key: str = "gt_boxes", least: float = 2.0) -> Draw:
        """Boxes of every image, within (height, width)."""
        for image, count in enumerate(counts):
            height, width = size
            corner = self.random.uniform(0, 0.7, (count, 2)) * (width, height)
            side = least + self.random.uniform(0, 0.6, (count, 2)) * (width, height)
            far = np.minimum(corner + side, (width, height))
            self.arrays[f"{key}.{image}"] = np.concatenate([corner, far], 1).astype(np.float32)
        return self

    def convolution(self, key: str, outputs: int, inputs: int, kernel: int = 1, bias: bool = True) -> Draw:
        self.normal(f"{key}.weight", outputs, inputs, kernel, kernel, scale=0.3)
        return self.normal(f"{key}.bias", outputs, scale=0.3) if bias else self

    def linear(self, key: str, outputs: int, inputs: int, bias: bool = True) -> Draw:
        self.normal(f"{key}.weight", outputs, inputs, scale=0.3)
        return self.normal(f"{key}.bias", outputs, scale=0.3) if bias else self

    def put(self, key: str, value: Any) -> Draw:
        self.arrays[key] = np.asarray(value)
        return self


def group(case: Case, prefix: str) -> list[Tensor]:
    """``PREFIX.0``, ``PREFIX.1``, ... as a list."""
    found = []
    while f"{prefix}.{len(found)}" in case:
        found.append(case[f"{prefix}.{len(found)}"])
    return found


def convolve(case: Case, key: str, features: Tensor, **options: Any) -> Tensor:
    """A convolution with the case's weights; the map as it is where the case has none."""
    if f"{key}.weight" not in case:
        return features
    return torch.nn.functional.conv2d(features, case[f"{key}.weight"], case.get(f"{key}.bias"), **options)


def project(case: Case, key: str, rows: Tensor) -> Tensor:
    """A linear layer with the case's weights."""
    return torch.nn.functional.linear(rows, case[f"{key}.weight"], case.get(f"{key}.bias"))


def batch_norm(case: Case, key: str, values: Tensor, eps: float = 1e-5) -> Tensor:
    """Batch norm with batch statistics."""
    weight, bias = case[f"{key}.weight"], case[f"{key}.bias"]
    return torch.nn.functional.batch_norm(values, None, None, weight, bias, training=True, eps=eps)


def add(values: Sequence[Tensor]) -> Tensor:
    """Sum of numbers."""
    return torch.stack(list(values)).sum()


def level_of(box: Tensor, levels: int, base: float = 56.0) -> int:
    """The level that a box belongs to."""
    side = ((box[2] - box[0] + 1) * (box[3] - box[1] + 1)).sqrt()
    return int(torch.log2(side / base + 1e-6).floor().clamp(0, levels - 1))


def overlaps(a: Tensor, b: Tensor, border: float = 0.0) -> Tensor:
    """IoU of every box with every other."""
    near, far = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (far - near + border).clamp(min=0).prod(-1)
    areas = [(t[:, 2:] - t[:, :2] + border).prod(-1) for t in (a, b)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """``T^2 KL`` of the last axis' distributions, summed over it."""
    theirs, ours = ((t / temperature).log_softmax(-1) for t in (teacher, student))
    return temperature**2 * (theirs.exp() * (theirs - ours)).sum(-1)
