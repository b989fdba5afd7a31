"""Probabilities over named axes."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from kdflow.functional.axes import dims_of
from kdflow.functional.groups import grouped
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("transform.softmax", gives=like("logits"), example={"groups": None})
def softmax(
    logits: AnyTensor,
    groups: AnyTensor | None = None,
    over: tuple[str, ...] = ("c",),
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    axes: Axes = (),
) -> AnyTensor:
    """``exp(logits / T)`` divided by its sum over the named axes together, in float32.

    Args:
        logits: Any tensor.
        groups: A number for each entry of the leading axes, such as (N,) for rows; equal numbers are one distribution, below 0
            is none, which gives 0. Axes that ``over`` leaves out, such as images, stay apart.
        over: Axes of one distribution: ``[c]`` classes or channels, ``[y, x]`` places, ``[n]`` rows.
        temperature: T.
        axes: Filled in by the compiler.
    """
    scaled, dims = single(logits) / temperature, dims_of(over, axes)
    if groups is not None:
        return grouped(groups, scaled, dims).shares(scaled)
    return (scaled - torch.logsumexp(scaled, dims, keepdim=True)).exp()
