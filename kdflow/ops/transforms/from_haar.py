"""Bands of frequencies as maps."""

from __future__ import annotations

from kdflow.errors import UsageError
from kdflow.functional import wavelets
from kdflow.kinds import Map
from kdflow.operation import op


@op("transform.from_haar", example={"details": "b 3c y x"})
def from_haar(low: Map, details: Map, like: Map | None = None) -> Map:
    """The map whose ``low`` and ``details`` these are: the inverse of ``transform.haar``, (B, C, 2h, 2w).

    Args:
        low: (B, C, h, w).
        details: (B, 3C, h, w).
        like: The result is cut to the height and width of these maps, whose odd sides had got zeros.
    """
    if details.shape[1] != 3 * low.shape[1]:
        raise UsageError(f"details have {details.shape[1]} channels, low has {low.shape[1]}; they are three times as many")
    result = wavelets.inverse_haar(low, *details.chunk(3, dim=1))
    return result if like is None else result[..., : like.shape[-2], : like.shape[-1]]
