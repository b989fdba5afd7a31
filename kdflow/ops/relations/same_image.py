"""Which rows are of one image."""

from __future__ import annotations

from typing import Any

import torch

from kdflow.functional.precision import single
from kdflow.kinds import Boxes, RowValues, of_axes
from kdflow.operation import op


@op("relation.same_image", gives=of_axes(("n", "m"), None), no_grad=True)
def same_image(boxes: Boxes, weights: RowValues | None = None) -> Any:
    """1 where both rows are of the same image, 0 elsewhere, times the weights of both: (N, N).

    As a factor it keeps a table of relations inside each image: with weights ``1 / n`` every image counts as a mean over
    its pairs.

    Args:
        boxes: Per image (n, 4), such as ``student.roi.boxes``; they say which row is of which image.
        weights: (N,) in the order of the boxes; none is 1 for every row.
    """
    image = torch.cat([own.new_full((len(own),), i) for i, own in enumerate(boxes)])
    same = (image[:, None] == image[None]).to(image.dtype)
    if weights is None:
        return same
    own_weights = single(weights)
    return same * own_weights[:, None] * own_weights[None]
