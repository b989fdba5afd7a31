"""For every row, the value at its own level."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from kdflow.kinds import ROW_VALUES, RowValues, of_axes
from kdflow.operation import op

LevelRows = Annotated[Any, of_axes(("n",), "levels")]


@op("values.of_level", gives=ROW_VALUES)
def of_level(values: LevelRows, levels: RowValues) -> Any:
    """One number per row, taken from the level that the row belongs to: list of (N,) -> (N,).

    Args:
        values: A number per row at every level.
        levels: (N,) index of each row's level, such as ``student.roi.levels``.
    """
    return torch.stack(list(values)).gather(0, levels.long()[None]).squeeze(0)
