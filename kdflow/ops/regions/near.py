"""Places whose prior lies well on a box."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from kdflow.functional import boxes as bx
from kdflow.kinds import Boxes, DenseValues, Priors
from kdflow.operation import op


@op("regions.near", defaults={"boxes": "targets.boxes"}, no_grad=True)
def near(
    priors: Priors,
    boxes: Boxes,
    iou: Annotated[float, Field(ge=0, le=1)] = 0.5,
    relative: bool = False,
    best: bool = False,
) -> DenseValues:
    """1 where a prior's IoU with some box of the image reaches a bound, else 0: (B, R) per level.

    An image without boxes gives zeros. Sources: FGFI's fine-grained regions (``relative``), the matcher of anchor-based
    detectors (``best``).

    Args:
        priors: Per level (R, 4) xyxy pixels.
        boxes: Per image (n, 4) xyxy pixels of the padded input.
        iou: The bound.
        relative: The bound is a fraction of the largest IoU that any prior has with the box, and must be exceeded.
        best: Also the priors of the largest IoU with each box, however small (ties all count), unless it is 0.
    """
    everything, sizes = torch.cat(list(priors)), [len(p) for p in priors]
    chosen = [_chosen(everything, own, iou, relative, best) for own in boxes]
    return list(torch.stack(chosen).split(sizes, dim=1))


def _chosen(priors: Tensor, boxes: Tensor, bound: float, relative: bool, best: bool) -> Tensor:
    """(R,) of one image."""
    if len(boxes) == 0:
        return priors.new_zeros(len(priors))
    overlaps = bx.pairwise_iou(priors, boxes)
    largest = overlaps.amax(0)
    inside = overlaps > bound * largest if relative else overlaps >= bound
    if best:
        inside = inside | ((overlaps == largest) & (largest > 0))
    return inside.any(1).to(priors.dtype)
