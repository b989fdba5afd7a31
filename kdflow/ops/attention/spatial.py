"""Where a map is strong."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional.attention import spatial_attention
from kdflow.functional.precision import single
from kdflow.kinds import Map, Mask
from kdflow.operation import op


@op("attention.spatial")
def spatial(features: Map, temperature: Annotated[float, Field(gt=0)] = 0.5) -> Mask:
    """``H*W * softmax over places of (mean over channels of |F| / T)``: (B, 1, H, W), mean 1. Gradient flows.

    Source: FGD (arXiv 2111.11837), equations 3 and 5.

    Args:
        features: (B, C, H, W) maps.
        temperature: T.
    """
    return spatial_attention(single(features), temperature)
