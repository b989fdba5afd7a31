"""Which channels are strong."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from kdflow.functional.attention import channel_attention
from kdflow.functional.axes import dims_of
from kdflow.functional.precision import single
from kdflow.kinds import MAP, Axes, Map
from kdflow.operation import like, op


@op("attention.channel", gives=like("features", drops="over"))
def channel(
    features: Map,
    temperature: Annotated[float, Field(gt=0)] = 0.5,
    over: tuple[str, ...] = ("y", "x"),
    axes: Axes = MAP.axes or (),
) -> Any:
    """``C * softmax over channels of (mean over places of |F| / T)``: (B, C), mean 1. Gradient flows.

    Sources: FGD (arXiv 2111.11837), equations 4 and 5; PGD (arXiv 2203.05469) with ``over: []``.

    Args:
        features: (B, C, H, W) maps.
        temperature: T.
        over: Axes that the mean is taken over; none gives every place a softmax of its own, (B, C, H, W).
        axes: Filled in by the compiler.
    """
    return channel_attention(single(features), temperature, dims_of(over, axes))
