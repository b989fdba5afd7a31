"""What a map says per channel."""

from __future__ import annotations

from typing import Annotated, Any

from kdflow.functional.precision import single
from kdflow.kinds import Map, of_axes
from kdflow.operation import op

Channels = Annotated[Any, of_axes(("b", "c"), None)]


@op("transform.mean_places")
def mean_places(features: Map) -> Channels:
    """Mean of every channel over the places: (B, C, H, W) -> (B, C), in float32.

    Args:
        features: (B, C, H, W) maps.
    """
    return single(features).mean((2, 3))
