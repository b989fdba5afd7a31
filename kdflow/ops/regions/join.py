"""Boxes of all images in one table."""

from __future__ import annotations

import torch

from kdflow.kinds import Boxes, Rows
from kdflow.operation import op


@op("regions.join")
def join(boxes: Boxes) -> Rows:
    """Per image (n, 4) -> (N, 4), images in order: the order of all values that speak of these boxes.

    Args:
        boxes: Per image, such as ``student.roi.boxes``.
    """
    return torch.cat(list(boxes))
