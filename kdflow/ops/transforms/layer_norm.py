"""Vectors of mean 0 and deviation 1."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional.axes import dims_of
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("transform.layer_norm", gives=like("features"))
def layer_norm(
    features: AnyTensor,
    over: tuple[str, ...] = ("c",),
    eps: Annotated[float, Field(gt=0)] = 1e-5,
    scale: bool = True,
    axes: Axes = (),
) -> AnyTensor:
    """``(F - mean) / sqrt(variance + eps)`` over the named axes together (divisor n), in float32, without weights.

    Args:
        features: Any tensor.
        over: Axes of one vector.
        eps: Added to the variance.
        scale: false takes the mean away and leaves the deviation.
        axes: Filled in by the compiler.
    """
    values, dims = single(features), dims_of(over, axes)
    centred = values - values.mean(dims, keepdim=True)
    if not scale:
        return centred
    return centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()
