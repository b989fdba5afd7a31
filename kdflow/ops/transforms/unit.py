"""Vectors of length one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional import statistics
from kdflow.functional.axes import dims_of
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("transform.unit", gives=like("features"))
def unit(
    features: AnyTensor, over: tuple[str, ...] = ("c",), eps: Annotated[float, Field(gt=0)] = 1e-12, axes: Axes = ()
) -> AnyTensor:
    """``F / |F|`` with the L2 norm over the named axes, in float32; vectors shorter than ``eps`` become 0.

    Args:
        features: Any tensor.
        over: Axes of one vector: ``[c]`` each place by itself, ``[c, y, x]`` each image's map as a whole.
        eps: Smallest length that is scaled up.
        axes: Filled in by the compiler.
    """
    return statistics.unit(single(features), dims_of(over, axes), eps)
