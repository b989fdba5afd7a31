"""Which dense place answers for which object, and which further places are worth learning from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kdflow.functional import boxes as bx


class Assignment(NamedTuple):
    """Result of an assignment of one image.

    Attributes:
        indices: (R,) int64 index of the object each prior answers for, -1 where none.
        thresholds: (G,) IoU threshold of each object.
        overlaps: (R,) IoU of each assigned prior with its object, 0 where none.
    """

    indices: Tensor
    thresholds: Tensor
    overlaps: Tensor


def atss_assign(priors: Sequence[Tensor], boxes: Tensor, topk: int = 9, valid: Tensor | None = None) -> Assignment:
    """Adaptive training sample selection (Zhang et al., CVPR 2020; mmdetection ``atss_assigner.py``).

    Per object, the ``topk`` priors of each level whose centres are nearest are candidates; those whose IoU reaches the
    mean plus the standard deviation of the candidates' IoU, and whose centre lies inside the object, are positive. A
    prior that is positive for several objects goes to the one it overlaps most. There is no ignore band.

    Args:
        priors: Per level (R_l, 4) xyxy pixels.
        boxes: (G, 4) xyxy pixels of one image's objects; G may be 0.
        topk: Candidates per level and object, fewer where a level has fewer priors.
        valid: (R,) bool over all levels, False for priors on padding, which are neither candidates nor positive.

    Returns:
        Indices, thresholds and overlaps over all priors in level order.
    """
    everything = torch.cat(list(priors))
    if len(boxes) == 0:
        nobody = torch.full((len(everything),), -1, dtype=torch.long, device=everything.device)
        return Assignment(nobody, everything.new_zeros(0), everything.new_zeros(len(everything)))
    overlaps = bx.pairwise_iou(everything, boxes)
    candidate = _candidates(priors, boxes, topk, valid)
    thresholds = _mean_plus_std(overlaps, candidate)
    positive = candidate & (overlaps >= thresholds) & bx.inside(bx.centers(everything), boxes, margin=0.01)
    best, indices = overlaps.masked_fill(~positive, -1.0).max(dim=1)
    assigned = best >= 0
    return Assignment(indices.masked_fill(~assigned, -1), thresholds, best.clamp(min=0))


def _candidates(priors: Sequence[Tensor], boxes: Tensor, topk: int, valid: Tensor | None) -> Tensor:
    """(R, G) bool: the nearest valid priors of each level, by centre."""
    chosen, start = [], 0
    for level in priors:
        distances = torch.cdist(bx.centers(level), bx.centers(boxes), compute_mode="donot_use_mm_for_euclid_dist")
        usable = None if valid is None else valid[start : start + len(level), None]
        if usable is not None:
            distances = distances.masked_fill(~usable, torch.inf)
        nearest = distances.topk(min(topk, len(level)), dim=0, largest=False).indices
        marked = torch.zeros_like(distances, dtype=torch.bool).scatter(0, nearest, True)
        chosen.append(marked if usable is None else marked & usable)
        start += len(level)
    return torch.cat(chosen)


def _mean_plus_std(overlaps: Tensor, candidate: Tensor) -> Tensor:
    """(G,) mean plus unbiased standard deviation over the candidates; a single candidate has deviation 0."""
    weight = candidate.to(overlaps.dtype)
    count = weight.sum(0)
    mean = (overlaps * weight).sum(0) / count.clamp(min=1)
    variance = ((overlaps - mean).square() * weight).sum(0) / (count - 1).clamp(min=1)
    return mean + variance.sqrt()


def valuable_weights(
    priors: Tensor,
    boxes: Tensor,
    thresholds: Tensor,
    gamma: float = 0.25,
    overlap: Literal["prior_area", "union"] = "prior_area",
) -> Tensor:
    """Weights of the valuable localisation region of one image (Zheng et al., CVPR 2022, section 3.3).

    A prior is in the region of an object when ``gamma * threshold <= D < threshold``, with D its overlap minus the
    squared distance of the centres over the squared diagonal of the enclosing box. Its weight is the largest IoU with
    the objects whose region it is in.

    Args:
        priors: (R, 4) xyxy pixels.
        boxes: (G, 4) xyxy pixels, G may be 0.
        thresholds: (G,) ATSS thresholds.
        gamma: Lower end of the region as a fraction of the threshold.
        overlap: What D starts from: ``prior_area`` divides the intersection by the prior's area (the authors' code,
            which the published numbers come from), ``union`` is the IoU of the paper.

    Returns:
        (R,) weights, 0 outside the region.
    """
    if len(boxes) == 0:
        return priors.new_zeros(len(priors))
    ious = bx.pairwise_iou(priors, boxes)
    if overlap == "union":
        measure = ious
    else:
        shared = bx.intersection(priors[:, None], boxes[None])
        measure = shared / bx.area(priors).clamp(min=bx.EPS)[:, None]
    measure = measure - bx.center_penalty(priors[:, None], boxes[None])
    region = (measure >= gamma * thresholds) & (measure < thresholds)
    return ious.masked_fill(~region, 0.0).amax(dim=1)
