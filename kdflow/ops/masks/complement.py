"""Everything that a mask leaves out."""

from __future__ import annotations

from kdflow.kinds import Mask
from kdflow.operation import op


@op("mask.complement", no_grad=True)
def complement(mask: Mask) -> Mask:
    """``1 - mask``: (B, 1, H, W) float, padding included.

    Args:
        mask: Values in 0..1.
    """
    return 1 - mask.float()
