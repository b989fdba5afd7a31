"""What a map or block says per channel."""

from __future__ import annotations

from kdflow.functional.axes import dims_of
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("transform.mean_places", gives=like("features", drop=("y", "x")), example={"features": "b c y x"})
def mean_places(features: AnyTensor, axes: Axes = ()) -> AnyTensor:
    """Mean of every channel over the places y and x, which are used up, in float32: (B, C, H, W) -> (B, C).

    Args:
        features: Maps, or blocks of regions (N, C, h, w), such as ``student.roi.features`` or those of ``regions.pool``.
        axes: Filled in by the compiler.
    """
    return single(features).mean(dims_of(("y", "x"), axes))
