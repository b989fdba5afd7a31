"""Class-specific predictions averaged by the chances of the classes."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from kdflow.errors import UsageError
from kdflow.functional.precision import single
from kdflow.kinds import Rows
from kdflow.operation import op


@op("regions.mean_of_class", example={"block": 1})
def mean_of_class(features: Rows, chances: Rows, block: Annotated[int, Field(gt=0)] = 4) -> Rows:
    """``sum_c chance_c * columns of class c`` over the classes without the background, the last: (N, block).

    Unlike ``regions.of_class`` it needs no label. Source: G-DetKD (arXiv 2108.07482), class-aware localisation.

    Args:
        features: (N, block * K) columns grouped by class, such as ``student.roi.deltas``; a group of the background is skipped.
        chances: (N, K + 1) of the classes and, last, the background.
        block: Columns per class; 4 for boxes and deltas.
    """
    classes = chances.shape[1] - 1
    if features.shape[1] < classes * block:
        raise UsageError(f"{features.shape[1]} columns are not {block} for each of {classes} classes")
    grouped = single(features).unflatten(1, (-1, block))[:, :classes]
    return torch.einsum("nkb,nk->nb", grouped, single(chances)[:, :classes])
