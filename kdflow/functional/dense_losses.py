"""Losses of dense detectors with soft targets: varifocal, distribution focal, focal. All keep their elements."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kdflow.functional.divergences import soft_cross_entropy


def focal(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """``|t - p|^gamma * BCE(logits, t)``, times alpha where t is 1 and 1 - alpha where it is 0; the factor carries gradient.

    Source: Lin et al., ICCV 2017, equation 5; between 0 and 1 both factors are joined linearly in t.

    Args:
        logits: Any shape.
        target: 0 and 1, or soft targets in between.
        alpha: Weight of positives.
        gamma: Exponent.
    """
    away = (target - torch.sigmoid(logits)).abs()
    balance = alpha * target + (1 - alpha) * (1 - target)
    return balance * away.pow(gamma) * soft_cross_entropy(logits, target)


def varifocal(logits: Tensor, target: Tensor, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """Binary cross-entropy, weighted by the target where it is positive, else by ``alpha * sigmoid(logits)^gamma``.

    Source: Zhang et al., CVPR 2021, equation 2 (mmdetection ``varifocal_loss.py``); the factor carries gradient.

    Args:
        logits: Any shape.
        target: IoU at the class of a positive place, 0 elsewhere.
        alpha: Weight of negatives.
        gamma: Exponent of their probability.
    """
    factor = torch.where(target > 0, target, alpha * torch.sigmoid(logits).pow(gamma))
    return soft_cross_entropy(logits, target) * factor


def distribution_focal(logits: Tensor, distance: Tensor) -> Tensor:
    """Cross-entropy with the two bins around a distance, each by its nearness: ``(...,  n+1), (...) -> (...)``.

    Source: Li et al., NeurIPS 2020, equation 6 (mmdetection ``gfocal_loss.py``).

    Args:
        logits: Of the bins 0 to n, along the last axis.
        distance: At least 0 and below n.
    """
    left = distance.detach().long()
    log_chances = functional.log_softmax(logits, dim=-1)
    lower = log_chances.gather(-1, left[..., None]).squeeze(-1)
    upper = log_chances.gather(-1, left[..., None] + 1).squeeze(-1)
    return -lower * (left + 1 - distance) - upper * (distance - left)


def edge_distances(points: Tensor, boxes: Tensor, most: float, margin: float = 0.1) -> Tensor:
    """Distances from points (..., 2) to the edges of boxes (..., 4), clamped to 0 .. ``most - margin``: (..., 4).

    Args:
        points: Same unit as the boxes.
        boxes: xyxy.
        most: n, the last bin.
        margin: Keeps the upper neighbouring bin within n.
    """
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1).clamp(min=0, max=most - margin)
