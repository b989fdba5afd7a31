"""Places where a model's own prediction fits an object."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from kdflow.functional import boxes as bx
from kdflow.functional.precision import in_full, single
from kdflow.kinds import Boxes, Dense, DenseValues, Labels, Priors
from kdflow.operation import op

SINGULAR = 1e-10


@op("regions.likely", defaults={"targets": "targets.boxes", "labels": "targets.labels"}, no_grad=True)
def likely(
    logits: Dense,
    boxes: Dense,
    priors: Priors,
    targets: Boxes,
    labels: Labels,
    k: Annotated[int, Field(gt=0)] = 30,
    overlap: Annotated[float, Field(ge=0, le=1)] = 0.8,
) -> DenseValues:
    """A bell over the ``k`` places that predict an object best, the larger value where objects share a place: (B, R) per level.

    The quality of a place for an object is ``score^(1 - overlap) * IoU^overlap``, with the sigmoid score of the object's class.
    The k best places of all levels together get ``exp(-(x - m)' S^-1 (x - m) / 2)``, with x the centre of their prior, m and S
    (divisor k) mean and covariance of the k centres; places whose centre is not inside the object, and all others, get 0. An
    image without objects gives zeros. Source: PGD (arXiv 2203.05469), without the noise that its code adds to the centres.

    Args:
        logits: Per level (B, R, C) class scores of sigmoid heads.
        boxes: Per level (B, R, 4) decoded boxes, xyxy pixels of the padded input.
        priors: Per level (R, 4) xyxy pixels.
        targets: Per image (n, 4) xyxy pixels.
        labels: Per image (n,) classes.
        k: Places per object; fewer where there are fewer.
        overlap: Exponent of the IoU.
    """
    sizes = [len(level) for level in priors]
    centers = single(bx.centers(torch.cat(list(priors))))
    scores, found = (single(torch.cat(list(levels), dim=1)) for levels in (logits, boxes))
    images = [
        _bells(own.sigmoid()[:, kinds.long()], predicted, centers, wanted.to(centers.dtype), k, overlap)
        for own, predicted, wanted, kinds in zip(scores, found, targets, labels, strict=True)
    ]
    return list(torch.stack(images).split(sizes, dim=1))


@in_full
def _bells(scores: Tensor, boxes: Tensor, centers: Tensor, targets: Tensor, k: int, overlap: float) -> Tensor:
    """(R,) of one image, from the scores (R, n) of the objects' classes."""
    if len(targets) == 0:
        return centers.new_zeros(len(centers))
    quality = scores ** (1 - overlap) * bx.pairwise_iou(boxes, targets) ** overlap
    best = quality.topk(min(k, len(quality)), dim=0).indices
    away = centers[best] - centers[best].mean(0)
    (xx, xy), (_, yy) = torch.einsum("kni,knj->ijn", away, away) / len(best)
    x, y = away.unbind(-1)
    squared = (yy * x * x - 2 * xy * x * y + xx * y * y) / (xx * yy - xy * xy + SINGULAR)
    bells = torch.zeros_like(quality).scatter(0, best, (-squared / 2).exp())
    return (bells * bx.inside(centers, targets)).amax(1)
