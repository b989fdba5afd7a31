"""Edge distributions with an axis of their own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.errors import UsageError
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("transform.edges", gives=like("distribution", swap={"c": "e c"}), example={"distribution": "b r c"})
def edges(distribution: AnyTensor, count: Annotated[int, Field(gt=0)] = 4) -> AnyTensor:
    """(B, R, edges * bins) -> (B, R, edges, bins), axes b, r, e, c; queries (B, Q, edges * bins) likewise.

    Args:
        distribution: Edge-major bin logits, as ``head.distribution`` and ``decoder.distribution`` give them.
        count: Edges per place.
    """
    if distribution.shape[-1] % count:
        raise UsageError(f"{distribution.shape[-1]} channels are not {count} edges of equal length")
    return distribution.unflatten(-1, (count, -1))
