"""Features of single cells."""

from __future__ import annotations

from kdflow.functional.sources import read_cells
from kdflow.kinds import Pyramid, Rows, RowValues
from kdflow.operation import op


@op("regions.cells")
def cells(features: Pyramid, image: RowValues, cell: RowValues) -> Rows:
    """The maps at one cell per row: (N, C); 0 where the cell is -1. Gradient flows to these cells only.

    Args:
        features: Maps per level, such as ``student.head.cls_tower``.
        image: (N,) image of each row, as ``regions.trace`` gives it.
        cell: (N,) cell, counted over all levels row by row.
    """
    return read_cells(features, image, cell)
