"""Places whose prior lies well on a box."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from kdflow.functional import boxes as bx
from kdflow.functional.masks import level_of_boxes
from kdflow.kinds import Boxes, DenseValues, Priors
from kdflow.operation import op

Assign = Literal["every", "by_area"]


@op("regions.near", defaults={"boxes": "targets.boxes"}, no_grad=True)
def near(
    priors: Priors,
    boxes: Boxes,
    iou: Annotated[float, Field(ge=0, le=1)] = 0.5,
    relative: bool = False,
    best: bool = False,
    assign: Assign = "every",
    base: Annotated[float, Field(gt=0)] = 56.0,
    border: Annotated[float, Field(ge=0)] = 0.0,
) -> DenseValues:
    """1 where a prior's IoU with some box of the image reaches a bound, else 0: (B, R) per level.

    An image without boxes gives zeros. Sources: FGFI's fine-grained regions (``relative``, arXiv 1906.03609), the
    matcher of anchor-based detectors (``best``).

    Args:
        priors: Per level (R, 4) xyxy pixels.
        boxes: Per image (n, 4) xyxy pixels of the padded input.
        iou: The bound.
        relative: The bound is a fraction of the largest IoU that any prior has with the box, and must be exceeded.
        best: Also the priors of the largest IoU with each box, however small (ties all count), unless it is 0.
        assign: ``by_area`` compares a box only with the priors of its level ``floor(log2(sqrt(w*h) / base))``.
        base: Side of boxes that belong to the finest level, pixels (``by_area``).
        border: Added to all widths and heights; 1 is the old convention in which both border pixels belong to a box.
    """
    everything, sizes = torch.cat(list(priors)), [len(p) for p in priors]
    level = torch.repeat_interleave(
        torch.arange(len(sizes), device=everything.device), torch.tensor(sizes, device=everything.device)
    )
    chosen = []
    for own in boxes:
        overlaps = _overlaps(everything, own, border)
        if assign == "by_area":
            overlaps = torch.where(level[:, None] == level_of_boxes(own, len(sizes), base), overlaps, 0.0)
        chosen.append(_chosen(overlaps, iou, relative, best))
    return list(torch.stack(chosen).split(sizes, dim=1))


def _overlaps(priors: Tensor, boxes: Tensor, border: float) -> Tensor:
    """(R, n) IoU."""
    grown = priors.new_tensor([0, 0, border, border])
    return bx.pairwise_iou(priors + grown, boxes.to(priors.dtype) + grown)


def _chosen(overlaps: Tensor, bound: float, relative: bool, best: bool) -> Tensor:
    """(R,) of one image."""
    if overlaps.shape[1] == 0:
        return overlaps.new_zeros(len(overlaps))
    largest = overlaps.amax(0)
    inside = overlaps > bound * largest if relative else overlaps >= bound
    if best:
        inside = inside | ((overlaps == largest) & (largest > 0))
    return inside.any(1).to(overlaps.dtype)
