"""Edge distributions with an axis of their own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.errors import UsageError
from kdflow.kinds import AnyTensor, Cells, Kind
from kdflow.operation import op

EDGES = Kind("edges", ("b", "r", "e", "c"))
"""Bin logits ``c`` of each edge ``e`` (left, top, right, bottom) of each dense place."""


@op("transform.edges", gives=EDGES)
def edges(distribution: Cells, count: Annotated[int, Field(gt=0)] = 4) -> AnyTensor:
    """(B, R, edges * bins) -> (B, R, edges, bins), axes b, r, e, c.

    Args:
        distribution: Edge-major bin logits, as ``head.distribution`` gives them.
        count: Edges per place.
    """
    if distribution.shape[-1] % count:
        raise UsageError(f"{distribution.shape[-1]} channels are not {count} edges of equal length")
    return distribution.unflatten(-1, (count, -1))
