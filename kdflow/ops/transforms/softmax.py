"""Probabilities over named axes."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from kdflow.functional.axes import dims_of
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("transform.softmax", gives=like("logits"))
def softmax(
    logits: AnyTensor, over: tuple[str, ...] = ("c",), temperature: Annotated[float, Field(gt=0)] = 1.0, axes: Axes = ()
) -> AnyTensor:
    """``exp(logits / T)`` divided by its sum over the named axes together, in float32.

    Args:
        logits: Any tensor.
        over: Axes of one distribution: ``[c]`` classes or channels, ``[y, x]`` places.
        temperature: T.
        axes: Filled in by the compiler.
    """
    scaled = single(logits) / temperature
    return (scaled - torch.logsumexp(scaled, dims_of(over, axes), keepdim=True)).exp()
