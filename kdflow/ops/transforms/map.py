"""Lists of places as maps."""

from __future__ import annotations

from kdflow.errors import UsageError
from kdflow.kinds import Cells, Map
from kdflow.operation import op


@op("transform.map")
def to_map(cells: Cells, like: Map) -> Map:
    """(B, H*W*A, C) -> (B, A*C, H, W), the channel order of the convolution that made the cells.

    Args:
        cells: Dense predictions, order y, x, anchor.
        like: A map of the same grid.
    """
    batch, places, channels = cells.shape
    height, width = like.shape[-2:]
    anchors, rest = divmod(places, height * width)
    if rest:
        raise UsageError(f"{places} places do not fit a grid of {height}x{width}")
    return cells.reshape(batch, height, width, anchors * channels).permute(0, 3, 1, 2)
