"""Where a mask is zero."""

from __future__ import annotations

from typing import Literal

from kdflow.kinds import Mask
from kdflow.operation import op


@op("mask.outside", no_grad=True)
def outside(mask: Mask, normalise: Literal["none", "image"] = "none") -> Mask:
    """1 where the mask is 0, and 0 elsewhere: (B, 1, H, W).

    Unlike ``mask.complement`` it does not grade weights between 0 and 1.

    Args:
        mask: Any weights.
        normalise: ``image`` divides by the number of such cells of each image, so that every image counts as one.
    """
    empty = (mask == 0).float()
    if normalise == "none":
        return empty
    return empty / empty.sum((1, 2, 3), keepdim=True).clamp(min=1)
