"""Values between 0 and 1."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional.axes import dims_of
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("transform.min_max", gives=like("features"), example={"over": ("c",)})
def min_max(
    features: AnyTensor,
    over: tuple[str, ...] = ("b", "c", "y", "x"),
    eps: Annotated[float, Field(gt=0)] = 1e-12,
    axes: Axes = (),
) -> AnyTensor:
    """``(F - min F) / (max F - min F)`` over the named axes together, in float32; constant values become 0.

    Gradient flows through the minimum and the maximum.

    Args:
        features: Any tensor.
        over: Axes of one minimum and maximum: ``[c, y, x]`` each image by itself, ``[y, x]`` each channel of it.
        eps: Smallest distance of maximum and minimum that is scaled up.
        axes: Filled in by the compiler.
    """
    values, dims = single(features), dims_of(over, axes)
    least, most = values.amin(dims, keepdim=True), values.amax(dims, keepdim=True)
    return (values - least) / (most - least).clamp(min=eps)
