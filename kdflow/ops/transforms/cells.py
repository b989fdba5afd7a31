"""Maps as lists of places."""

from __future__ import annotations

from kdflow.kinds import Cells, Map
from kdflow.operation import op


@op("transform.cells")
def cells(features: Map) -> Cells:
    """(B, C, H, W) -> (B, H*W, C), order y, x.

    Args:
        features: Maps.
    """
    return features.flatten(2).transpose(1, 2)
