"""For every row, the total of its image."""

from __future__ import annotations

import torch

from kdflow.functional.precision import single
from kdflow.kinds import Boxes, RowValues
from kdflow.operation import op


@op("values.of_image", no_grad=True)
def of_image(boxes: Boxes, values: RowValues | None = None) -> RowValues:
    """The sum of ``values`` over the rows of the same image, or the number of those rows: (N,), without gradient.

    Args:
        boxes: Per image (n, 4), such as ``student.roi.boxes``; they say which row is of which image.
        values: (N,) numbers or booleans in the order of the boxes; none counts the rows.
    """
    counts = [len(own) for own in boxes]
    numbers = torch.ones_like(torch.cat(list(boxes))[:, 0]) if values is None else single(values)
    return torch.cat([own.sum().expand(len(own)) for own in numbers.split(counts)])
