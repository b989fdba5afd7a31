"""Coarser maps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch.nn import functional

from kdflow.kinds import Map
from kdflow.operation import op


@op("transform.pool")
def pool(features: Map, size: Annotated[int, Field(ge=2)] = 2, how: Literal["max", "mean"] = "max") -> Map:
    """Largest value or mean of every ``size`` x ``size`` block: (B, C, H, W) -> (B, C, ceil(H / size), ceil(W / size)).

    Sides that are no multiple get zeros at the end first.

    Args:
        features: (B, C, H, W) maps.
        size: Side of a block, cells.
        how: What a block gives.
    """
    height, width = features.shape[-2:]
    even = functional.pad(features, (0, -width % size, 0, -height % size))
    return functional.max_pool2d(even, size) if how == "max" else functional.avg_pool2d(even, size)
