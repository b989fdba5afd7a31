"""Boxes in other forms: corners or centre and size, pixels or fractions of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_corners(boxes: Tensor) -> Tensor:
    """cxcywh -> xyxy, ``(..., 4)``."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([center - half, center + half], dim=-1)


def to_center(boxes: Tensor) -> Tensor:
    """xyxy -> cxcywh, ``(..., 4)``."""
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
