"""The largest channel."""

from __future__ import annotations

from kdflow.functional.axes import dim_of
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("transform.max", gives=like("features", drop="c"))
def maximum(features: AnyTensor, axes: Axes = ()) -> AnyTensor:
    """Largest value over the channels or classes ``c``, which are used up.

    Args:
        features: Any tensor with an axis c.
        axes: Filled in by the compiler.
    """
    return features.amax(dim_of("c", axes))
