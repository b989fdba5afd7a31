"""Where a mask is zero."""

from __future__ import annotations

from kdflow.kinds import Mask
from kdflow.operation import op


@op("mask.outside", no_grad=True)
def outside(mask: Mask) -> Mask:
    """1 where the mask is 0, and 0 elsewhere: (B, 1, H, W).

    Unlike ``mask.complement`` it does not grade weights between 0 and 1. ``mask.normalise`` makes every image count as one.

    Args:
        mask: Any weights.
    """
    return (mask == 0).float()
