"""Deltas that boxes stand for."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from kdflow.errors import UsageError
from kdflow.functional.box_forms import encode_deltas
from kdflow.functional.precision import single
from kdflow.kinds import Boxes, Rows
from kdflow.operation import op

Positive = Annotated[float, Field(gt=0)]


@op("transform.encode", no_grad=True)
def encode(
    boxes: Boxes, targets: Boxes, weights: tuple[Positive, Positive, Positive, Positive] = (10, 10, 5, 5)
) -> Rows:
    """What a box head has to predict so that its boxes become their targets: (N, 4) deltas (dx, dy, dw, dh), without gradient.

    The inverse of ``transform.decode``. Sides below one pixel count as one, so that a box without area gives finite numbers.

    Args:
        boxes: Per image (n, 4) xyxy, such as ``student.roi.boxes``.
        targets: As many boxes per image, such as ``student.roi.matched_boxes``.
        weights: Factors of the four numbers; box heads use (10, 10, 5, 5).
    """
    if any(len(own) != len(wanted) for own, wanted in zip(boxes, targets, strict=True)):
        raise UsageError("transform.encode needs one target for each box")
    return encode_deltas(single(torch.cat(list(targets))), single(torch.cat(list(boxes))), weights)
