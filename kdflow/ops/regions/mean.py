"""One vector per block."""

from __future__ import annotations

from kdflow.kinds import RowBlocks, Rows
from kdflow.operation import op


@op("regions.mean")
def mean(features: RowBlocks) -> Rows:
    """Average of each block over its cells: (N, C, h, w) -> (N, C).

    Args:
        features: Blocks, such as ``student.roi.features`` or those of ``regions.pool``.
    """
    return features.mean((2, 3))
