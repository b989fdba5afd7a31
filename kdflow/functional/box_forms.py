"""Boxes in other forms: corners or centre and size, pixels or fractions of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def to_corners(boxes: Tensor) -> Tensor:
    """Corners xyxy of boxes cxcywh, ``(..., 4)``."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([center - half, center + half], dim=-1)


def to_center(boxes: Tensor) -> Tensor:
    """Boxes cxcywh from corners xyxy, ``(..., 4)``."""
    first, last = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(first + last) / 2, last - first], dim=-1)


def image_scales(image_sizes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """(B, 4) width, height, width, height of each image, in the type and on the device of ``like``."""
    scales = [(width, height, width, height) for height, width in image_sizes]
    return torch.tensor(scales, dtype=like.dtype, device=like.device)


def clip_to_images(boxes: Tensor, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """(B, ..., 4) xyxy pixels, moved inside their image."""
    limits = image_scales(image_sizes, boxes)
    limits = limits.reshape(len(limits), *[1] * (boxes.dim() - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limits)


LARGEST_LOG_SIZE = math.log(1000.0 / 16)
"""Bound on the predicted logarithm of a size, as torchvision and detectron2 have it."""


def decode_deltas(deltas: Tensor, anchors: Tensor, weights: Sequence[float] = (1, 1, 1, 1)) -> Tensor:
    """Boxes xyxy ``(..., 4)`` from (dx, dy, dw, dh) / weights: shifts in anchor sizes and logarithms of sizes.

    Args:
        deltas: (..., R, 4).
        anchors: (R, 4) xyxy.
        weights: Divisors of the four numbers.
    """
    moves = deltas / deltas.new_tensor(weights)
    base = to_center(anchors).to(deltas.dtype)
    center = base[..., :2] + moves[..., :2] * base[..., 2:]
    return to_corners(torch.cat([center, base[..., 2:] * moves[..., 2:].clamp(max=LARGEST_LOG_SIZE).exp()], dim=-1))


def encode_deltas(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1, 1, 1, 1), least: float = 1.0) -> Tensor:
    """(dx, dy, dw, dh) * weights that make boxes of anchors: the inverse of :func:`decode_deltas`.

    Args:
        boxes: (N, 4) xyxy.
        anchors: (N, 4) xyxy.
        weights: Factors of the four numbers.
        least: Lower bound of all sides, pixels.
    """
    wanted, base = to_center(boxes), to_center(anchors)
    sides, own = wanted[:, 2:].clamp(min=least), base[:, 2:].clamp(min=least)
    return torch.cat([(wanted[:, :2] - base[:, :2]) / own, (sides / own).log()], dim=1) * boxes.new_tensor(weights)
