"""Some of the channels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional.axes import dim_of
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op

Channel = Annotated[int, Field(ge=0)]


@op("transform.channels", gives=like("features", swap={"c": "c"}), example={"last": 4})
def channels(features: AnyTensor, last: Channel, first: Channel = 0, axes: Axes = ()) -> AnyTensor:
    """Channels or classes ``first`` to ``last - 1`` of the axis c.

    Args:
        features: Any tensor with an axis c.
        last: The first channel that is left out.
        first: The first channel that is kept.
        axes: Filled in by the compiler.
    """
    dim = dim_of("c", axes) % features.dim()
    return features[(slice(None),) * dim + (slice(first, last),)]
