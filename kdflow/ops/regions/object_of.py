"""Which object of its image a place is assigned to."""

from __future__ import annotations

import torch
from torch import Tensor

from kdflow.functional.precision import single
from kdflow.kinds import Boxes, Cells, CellValues
from kdflow.operation import op


@op("regions.object_of", defaults={"targets": "targets.boxes"}, no_grad=True)
def object_of(boxes: Cells, keep: CellValues, targets: Boxes) -> CellValues:
    """Number of the object whose box a place has been given: (B, R), -1 for places that are not kept.

    Boxes are recognised by their coordinates, so two equal objects count as the first.

    Args:
        boxes: (B, R, 4) ground-truth box of each place, such as ``assign.matched_boxes`` after ``transform.flatten``.
        keep: (B, R) above 0 for the places that have one, such as ``assign.positive``.
        targets: Per image (n, 4), in the same pixels.
    """
    rows = [_numbers(own, wanted.to(own.dtype)) for own, wanted in zip(single(boxes), targets, strict=True)]
    return torch.where(keep > 0, torch.stack(rows), -1)


def _numbers(boxes: Tensor, targets: Tensor) -> Tensor:
    """(R,) of one image."""
    if len(targets) == 0:
        return boxes.new_full((len(boxes),), -1, dtype=torch.long)
    return (boxes[:, None] - targets[None]).abs().sum(2).argmin(1)
