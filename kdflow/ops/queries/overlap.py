"""How well predicted boxes fit the ground truth."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from kdflow.functional import boxes as bx
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor, Boxes
from kdflow.operation import like, op


@op(
    "queries.overlap",
    gives=like("boxes", drop="c"),
    defaults={"targets": "targets.boxes"},
    no_grad=True,
    example={"boxes": "b q c"},
)
def overlap(boxes: AnyTensor, targets: Boxes, empty: Annotated[float, Field(ge=0, le=1)] = 0.0) -> AnyTensor:
    """Largest IoU of each predicted box with a target of its image: (B, Q), of queries or of dense places.

    Args:
        boxes: (B, Q, 4) xyxy pixels of the padded input, such as ``teacher.head.boxes``.
        targets: Per image (n, 4) in the same pixels.
        empty: Value of all boxes of an image without targets.
    """

    def best(predicted: Tensor, own: Tensor) -> Tensor:
        if len(own) == 0:
            return predicted.new_full((len(predicted),), empty)
        return bx.pairwise_iou(predicted, own.to(predicted.dtype)).amax(1)

    return torch.stack([best(p, t) for p, t in zip(single(boxes), targets, strict=True)])
