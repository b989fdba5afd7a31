"""Objects per image."""

from __future__ import annotations

import torch

from kdflow.kinds import Boxes, ImageValues
from kdflow.operation import op


@op("stats.objects", defaults={"boxes": "targets.boxes"}, no_grad=True)
def objects(boxes: Boxes) -> ImageValues:
    """Number of boxes of every image: (B,).

    Args:
        boxes: Per image (n, 4).
    """
    like = boxes[0]
    return torch.tensor([float(len(own)) for own in boxes], device=like.device, dtype=like.dtype)
