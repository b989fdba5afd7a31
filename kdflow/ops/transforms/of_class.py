"""What a head says for the class of each row."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from kdflow.errors import UsageError
from kdflow.kinds import Rows, RowValues
from kdflow.operation import op


@op("transform.of_class", example={"size": 2})
def of_class(features: Rows, labels: RowValues, size: Annotated[int, Field(gt=0)] = 4) -> Rows:
    """The numbers of each row's own class: (N, classes * size) -> (N, size), class k in columns k*size to k*size+size-1.

    A label without columns (the background, where a head has none for it) takes the last class; leave such rows out with
    ``rows``.

    Args:
        features: (N, classes * size), such as ``roi.deltas``.
        labels: (N,) class of every row, such as ``student.roi.labels``.
        size: Numbers per class.
    """
    if features.shape[1] % size:
        raise UsageError(f"{features.shape[1]} columns are no multiple of {size} numbers per class")
    grouped = features.reshape(len(features), features.shape[1] // size, size)
    chosen = labels.long().clamp(0, grouped.shape[1] - 1)
    return grouped[torch.arange(len(features), device=features.device), chosen]
