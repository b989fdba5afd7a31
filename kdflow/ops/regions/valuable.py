"""The valuable localisation region: places near an object that are not assigned to it."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from kdflow.functional.assignment import atss_assign, valuable_weights
from kdflow.kinds import Boxes, DenseValues, Priors
from kdflow.operation import op


@op("regions.valuable", defaults={"boxes": "targets.boxes"}, no_grad=True)
def valuable(
    priors: Priors,
    boxes: Boxes,
    valid: DenseValues | None = None,
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.25,
    overlap: Literal["prior_area", "union"] = "prior_area",
    topk: Annotated[int, Field(gt=0)] = 9,
) -> DenseValues:
    """Weight of every place in the region, its largest IoU with an object there, and 0 outside; (B, R) per level.

    A place is in the region of an object when ``gamma * t <= D < t``, with t the object's ATSS threshold and D the
    overlap minus the normalised distance of the centres. An image without boxes gives zeros.
    Source: LD (arXiv 2102.12252), ``ld_head.py``.

    Args:
        priors: Per level (R, 4) xyxy pixels.
        boxes: Per image (n, 4) xyxy pixels of the padded input.
        valid: Above 0 where a prior lies on the image; priors on padding are no candidates and are never in the region.
        gamma: Lower end of the region as a fraction of the threshold; 1 makes it empty.
        overlap: ``prior_area`` divides the intersection by the prior's area, as the authors' code and published numbers
            do; ``union`` is the IoU that the paper writes.
        topk: Candidates per level and object of the assignment.
    """
    everything, sizes = torch.cat(list(priors)), [len(level) for level in priors]
    usable = None if valid is None else torch.cat(list(valid), dim=1) > 0
    weights = []
    for image, objects in enumerate(boxes):
        on_image = None if usable is None else usable[image]
        thresholds = atss_assign(priors, objects, topk, on_image).thresholds
        weight = valuable_weights(everything, objects, thresholds, gamma, overlap)
        weights.append(weight if on_image is None else weight * on_image)
    return list(torch.stack(weights).split(sizes, dim=1))
