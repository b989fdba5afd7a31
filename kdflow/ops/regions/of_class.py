"""The columns of the own class of a row or place."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.errors import UsageError
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("regions.of_class", gives=like("features"), example={"features": "b r c", "labels": "b r"})
def of_class(features: AnyTensor, labels: AnyTensor, block: Annotated[int, Field(gt=0)] = 4) -> AnyTensor:
    """Of class-specific predictions (..., block * K), the ``block`` columns of each row's or place's class: (..., block).

    Rows of a class without columns (a background that has no box, a place that is ignored) are 0.

    Args:
        features: Rows or cells with columns grouped by class, such as ``student.roi.deltas`` or ``student.head.logits``.
        labels: Class of each row or place, such as ``student.roi.labels`` or ``student.assign.labels``.
        block: Columns per class; 4 for boxes and deltas.
    """
    if features.shape[-1] % block:
        raise UsageError(f"{features.shape[-1]} columns cannot be grouped by {block}")
    if labels.shape != features.shape[:-1]:
        shapes = f"features are {tuple(features.shape)}, labels are {tuple(labels.shape)}"
        raise UsageError(f"{shapes}; regions.of_class needs one label for each row or place")
    grouped, index = features.unflatten(-1, (-1, block)), labels.long()
    known = (index >= 0) & (index < grouped.shape[-2])
    where = index.where(known, 0)[..., None, None].expand(*index.shape, 1, block)
    return grouped.gather(-2, where).squeeze(-2).masked_fill(~known[..., None], 0)
