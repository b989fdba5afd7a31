"""Boxes as xyxy tensors ``(..., 4)``: areas, overlaps, centres. Units are pixels unless said otherwise."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6
"""Smallest denominator of an overlap; smaller ones are raised to it (as mmdetection does)."""


def area(boxes: Tensor) -> Tensor:
    """Area of each box, ``(..., 4) -> (...)``."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def centers(boxes: Tensor) -> Tensor:
    """Centre (x, y) of each box, ``(..., 4) -> (..., 2)``."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area shared by boxes of broadcastable shapes ``(..., 4)``."""
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def iou(a: Tensor, b: Tensor, eps: float = EPS) -> Tensor:
    """Intersection over union of boxes of broadcastable shapes ``(..., 4)``, element by element.

    Args:
        a: xyxy boxes.
        b: xyxy boxes.
        eps: Lower bound of the union, so that two empty boxes give 0.
    """
    shared = intersection(a, b)
    return shared / (area(a) + area(b) - shared).clamp(min=eps)


def giou(a: Tensor, b: Tensor, eps: float = EPS) -> Tensor:
    """Generalised IoU in -1..1, element by element: IoU minus the empty share of the enclosing box.

    Source: Rezatofighi et al., CVPR 2019, with mmdetection's lower bound ``eps`` on both denominators.
    """
    shared = intersection(a, b)
    union = (area(a) + area(b) - shared).clamp(min=eps)
    hull = area(enclosing(a, b)).clamp(min=eps)
    return shared / union - (hull - union) / hull


def enclosing(a: Tensor, b: Tensor) -> Tensor:
    """Smallest box around both, element by element."""
    return torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], dim=-1)


def center_penalty(a: Tensor, b: Tensor, eps: float = EPS) -> Tensor:
    """Squared distance of the centres over the squared diagonal of the enclosing box (the second part of DIoU)."""
    hull = enclosing(a, b)
    diagonal = (hull[..., 2:] - hull[..., :2]).square().sum(-1) + eps
    return (centers(a) - centers(b)).square().sum(-1) / diagonal


def pairwise_iou(a: Tensor, b: Tensor, eps: float = EPS) -> Tensor:
    """IoU of every box in ``a`` (N, 4) with every box in ``b`` (M, 4): (N, M)."""
    return iou(a[:, None], b[None], eps)


def inside(points: Tensor, boxes: Tensor, margin: float = 0.0) -> Tensor:
    """True where a point (N, 2) lies more than ``margin`` pixels within a box (M, 4): (N, M)."""
    distances = torch.cat([points[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - points[:, None]], dim=-1)
    return distances.amin(-1) > margin


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """FCOS centerness of points (R, 2) in their boxes (..., R, 4), in 0..1; 0 on the border of the box and outside."""
    near, far = points - boxes[..., :2], boxes[..., 2:] - points
    short, long = torch.minimum(near, far), torch.maximum(near, far)
    inner = (short > 0).all(-1)
    ratio = (short / torch.where(inner[..., None], long, 1.0)).prod(-1)
    return torch.where(inner, torch.where(inner, ratio, 1.0).sqrt(), 0.0)
