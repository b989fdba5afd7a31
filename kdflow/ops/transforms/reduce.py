"""Fewer axes."""

from __future__ import annotations

import torch
from torch import Tensor

from kdflow.functional.axes import dims_of
from kdflow.functional.groups import How, grouped
from kdflow.functional.precision import single
from kdflow.functional.reduce import safe_root
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("transform.reduce", gives=like("features", drops="over", unless="groups"), example={"over": ("c",), "groups": None})
def reduce(
    features: AnyTensor, over: tuple[str, ...], how: How = "mean", groups: AnyTensor | None = None, axes: Axes = ()
) -> AnyTensor:
    """One number along the named axes together, which are used up; in float32. Gradient flows.

    With ``groups`` every entry is given its group's number, and no axis is used up; entries without a group are 0.

    Args:
        features: Any tensor.
        over: Axes such as ``[c]`` or ``[y, x]``.
        how: ``norm`` is the root of the sum of squares, with gradient 0 where it is 0. The mean of nothing is 0.
        groups: A number for each entry of the leading axes, such as (N,) for rows; equal numbers are one group, below 0 is none.
            Axes that ``over`` leaves out, such as images, stay apart.
        axes: Filled in by the compiler.
    """
    values, dims = single(features), dims_of(over, axes)
    if groups is not None:
        return grouped(groups, values, dims).reduced(values, how)
    if how == "max":
        return values.amax(dims)
    if how == "min":
        return values.amin(dims)
    if how == "norm":
        return safe_root(values.square().sum(dims))
    total = values.sum(dims)
    return total if how == "sum" else total / _count(values, dims)


def _count(values: Tensor, dims: tuple[int, ...]) -> int:
    return max(torch.Size(values.shape[dim] for dim in dims).numel(), 1)
