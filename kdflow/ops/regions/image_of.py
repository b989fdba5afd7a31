"""Which image a row belongs to."""

from __future__ import annotations

import torch

from kdflow.kinds import Boxes, RowValues
from kdflow.operation import op


@op("regions.image_of", defaults={"boxes": "targets.boxes"}, no_grad=True)
def image_of(boxes: Boxes) -> RowValues:
    """Number of each row's image: (N,), for ``groups:`` of what is done image by image.

    Args:
        boxes: Per image (n, 4), such as ``student.roi.boxes``, whose rows are numbered.
    """
    return torch.cat([own.new_full((len(own),), number, dtype=torch.long) for number, own in enumerate(boxes)])
