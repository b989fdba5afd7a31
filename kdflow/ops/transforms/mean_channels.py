"""What a map says per place."""

from __future__ import annotations

from kdflow.functional.precision import single
from kdflow.kinds import Map
from kdflow.operation import op


@op("transform.mean_channels")
def mean_channels(features: Map) -> Map:
    """Mean of every place over the channels: (B, C, H, W) -> (B, 1, H, W), in float32.

    Args:
        features: (B, C, H, W) maps.
    """
    return single(features).mean(1, keepdim=True)
