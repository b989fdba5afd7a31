"""Which channels are strong."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from kdflow.functional.attention import channel_attention
from kdflow.functional.precision import single
from kdflow.kinds import Map, of_axes
from kdflow.operation import op


@op("attention.channel", gives=of_axes(("b", "c"), None))
def channel(features: Map, temperature: Annotated[float, Field(gt=0)] = 0.5) -> Any:
    """``C * softmax over channels of (mean over places of |F| / T)``: (B, C), mean 1. Gradient flows.

    Source: FGD (arXiv 2111.11837), equations 4 and 5.

    Args:
        features: (B, C, H, W) maps.
        temperature: T.
    """
    return channel_attention(single(features), temperature)
