"""Dense places as a mask."""

from __future__ import annotations

from kdflow.errors import UsageError
from kdflow.functional.precision import single
from kdflow.kinds import CellValues, Map, Mask
from kdflow.operation import op


@op("mask.cells", no_grad=True)
def cells(values: CellValues, like: Map) -> Mask:
    """The largest value of each cell's anchors: (B, H*W*A) -> (B, 1, H, W).

    Args:
        values: One number per dense place, order y, x, anchor, such as those of ``regions.near``.
        like: A map of the same grid.
    """
    height, width = like.shape[-2:]
    if values.shape[1] % (height * width):
        raise UsageError(f"{values.shape[1]} places do not fit a grid of {height}x{width}")
    return single(values).reshape(len(values), 1, height, width, -1).amax(-1)
