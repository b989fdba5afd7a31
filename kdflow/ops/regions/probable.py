"""Places that a model's own losses assign to an object."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from kdflow.functional import boxes as bx
from kdflow.functional.dense_losses import focal
from kdflow.functional.mixtures import two_normals
from kdflow.functional.precision import single
from kdflow.kinds import DENSE, DENSE_VALUES, Boxes, Dense, Labels, Priors
from kdflow.operation import op

Fraction = Annotated[float, Field(ge=0, le=1)]


def _infer(logits: Dense, boxes: Dense, **_: Any) -> dict[str, Any]:
    places = [level[..., 0] for level in logits]
    return {
        "labels": [level.long() for level in places],
        "positive": [level > 0 for level in places],
        "matched_boxes": list(boxes),
        "costs": places,
    }


@op(
    "regions.probable",
    gives={"labels": DENSE_VALUES, "positive": DENSE_VALUES, "matched_boxes": DENSE, "costs": DENSE_VALUES},
    defaults={"targets": "targets.boxes", "labels": "targets.labels"},
    no_grad=True,
    infer=_infer,
)
def probable(
    logits: Dense,
    boxes: Dense,
    priors: Priors,
    targets: Boxes,
    labels: Labels,
    iou: Fraction = 0.1,
    k: Annotated[int, Field(gt=0)] = 9,
    giou: Annotated[float, Field(ge=0)] = 1.3,
    alpha: Fraction = 0.25,
    gamma: Annotated[float, Field(ge=0)] = 2.0,
) -> dict[str, Any]:
    """Probabilistic anchor assignment: the places of an object whose losses belong to the better of two clusters.

    Candidates are places whose prior has an IoU of ``iou`` or more with an object (each counts for the object it overlaps most),
    and the priors that overlap an object best. The cost of a candidate is its focal loss, summed over classes, plus
    ``giou * (1 - GIoU)`` of its predicted box. To the costs of an object, of the ``k`` cheapest candidates of every level, two
    normal distributions are fitted; positive are the members of the cheaper one up to the member of the largest density, in the
    order of costs. An object with a single candidate has no place. Outputs per level: ``labels`` (B, R), the background is C;
    ``positive`` (B, R); ``matched_boxes`` (B, R, 4), zeros where none; ``costs`` (B, R), 0 where a place is no candidate. Source:
    Kim and Lee, ECCV 2020, as mmdetection's LAD has it.

    Args:
        logits: Per level (B, R, C) class scores of sigmoid heads, of the model that assigns.
        boxes: Per level (B, R, 4) its decoded boxes, xyxy pixels of the padded input.
        priors: Per level (R, 4) xyxy pixels.
        targets: Per image (n, 4) xyxy pixels.
        labels: Per image (n,) classes.
        iou: Least overlap of a candidate.
        k: Candidates per object and level.
        giou: Weight of the box's loss.
        alpha: Of the focal loss.
        gamma: Of the focal loss.
    """
    sizes = [len(level) for level in priors]
    everything, classes = torch.cat(list(priors)), logits[0].shape[-1]
    scores, found = (single(torch.cat(list(levels), dim=1)) for levels in (logits, boxes))
    images = []
    for own, predicted, wanted, kinds in zip(scores, found, targets, labels, strict=True):
        owner = _owners(bx.pairwise_iou(everything, wanted.to(everything.dtype)), iou)
        costs = _costs(own, predicted, owner, wanted, kinds.long(), giou, (alpha, gamma))
        positive = _members(costs, owner, len(wanted), sizes, k)
        object_of = torch.where(positive, owner, -1)
        images.append({
            "labels": torch.cat([kinds.long(), kinds.new_tensor([classes], dtype=torch.long)])[object_of],
            "positive": positive,
            "matched_boxes": torch.cat([wanted, wanted.new_zeros(1, 4)])[object_of],
            "costs": costs,
        })
    return {key: list(torch.stack([image[key] for image in images]).split(sizes, dim=1)) for key in images[0]}


def _owners(overlaps: Tensor, least: float) -> Tensor:
    """(R,) object that a place may stand for, -1 for none, from IoUs (R, n)."""
    if overlaps.shape[1] == 0:
        return overlaps.new_full((len(overlaps),), -1, dtype=torch.long)
    largest, owner = overlaps.max(1)
    best = (overlaps == overlaps.amax(0)) & (overlaps > 0)
    last_best = overlaps.shape[1] - 1 - best.flip(1).int().argmax(1)
    return torch.where(best.any(1), last_best, torch.where(largest >= least, owner, -1))


def _costs(
    logits: Tensor, boxes: Tensor, owner: Tensor, targets: Tensor, labels: Tensor, giou: float, shape: tuple[float, float]
) -> Tensor:
    """(R,) loss of every candidate, 0 for other places."""
    if len(targets) == 0:
        return logits.new_zeros(len(logits))
    own = owner.clamp(min=0)
    answers = functional.one_hot(labels[own], logits.shape[1]).to(logits.dtype)
    costs = focal(logits, answers, *shape).sum(1) + giou * (1 - bx.giou(boxes, targets.to(boxes.dtype)[own]))
    return costs.where(owner >= 0, 0.0)


def _members(costs: Tensor, owner: Tensor, objects: int, sizes: list[int], k: int) -> Tensor:
    """(R,) True for the places of an object."""
    positive = torch.zeros_like(owner, dtype=torch.bool)
    if objects == 0:
        return positive
    number = torch.arange(objects, device=costs.device)
    table = torch.where(owner[:, None] == number, costs[:, None], torch.inf)
    places, start = [], 0
    for size in sizes:
        places.append(table[start : start + size].topk(min(k, size), dim=0, largest=False).indices + start)
        start += size
    chosen = torch.cat(places)
    ordered, order = table.gather(0, chosen).T.sort(1)
    place, valid = chosen.T.gather(1, order), ordered.isfinite()
    fit = two_normals(ordered, valid & (valid.sum(1, keepdim=True) > 1))
    densest = fit.log_density.masked_fill(~fit.first, -torch.inf).argmax(1, keepdim=True)
    kept = fit.first & (torch.arange(place.shape[1], device=place.device) <= densest)
    return positive.index_fill(0, place[kept], True)
