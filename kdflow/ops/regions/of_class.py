"""The columns of a row's own class."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.errors import UsageError
from kdflow.kinds import Rows, RowValues
from kdflow.operation import op


@op("regions.of_class", example={"block": 1})
def of_class(features: Rows, labels: RowValues, block: Annotated[int, Field(gt=0)] = 4) -> Rows:
    """Of class-specific predictions (N, block * K), the ``block`` columns of each row's class: (N, block).

    Rows of a class without columns (a background that has no box) are 0.

    Args:
        features: Columns grouped by class, such as ``student.roi.deltas``.
        labels: (N,) class of each row, such as ``student.roi.labels``.
        block: Columns per class; 4 for boxes and deltas.
    """
    if features.shape[1] % block:
        raise UsageError(f"{features.shape[1]} columns cannot be grouped by {block}")
    grouped, index = features.unflatten(1, (-1, block)), labels.long()
    known = index < grouped.shape[1]
    own = grouped.gather(1, index.where(known, 0)[:, None, None].expand(-1, 1, block)).squeeze(1)
    return own.masked_fill(~known[:, None], 0)
