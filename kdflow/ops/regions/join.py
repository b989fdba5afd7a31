"""Boxes of all images as one table."""

from __future__ import annotations

import torch

from kdflow.kinds import Boxes, Rows
from kdflow.operation import op


@op("regions.join")
def join(boxes: Boxes) -> Rows:
    """Per image (n, 4) -> (N, 4), images in order.

    Args:
        boxes: Per image (n, 4).
    """
    return torch.cat(list(boxes))
