"""Each class of a softmax against all others."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from kdflow.functional.axes import dim_of
from kdflow.functional.checks import same_shape
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op

SUREST = -1e-7
"""Largest logarithm of a chance; keeps the chance of the rest above 0."""


@op("loss.one_vs_rest", gives=like("student"))
def one_vs_rest(
    student: AnyTensor, teacher: AnyTensor, temperature: Annotated[float, Field(gt=0)] = 1.0, axes: Axes = ()
) -> AnyTensor:
    """``-t ln s - (1 - t) ln(1 - s)`` of every class's softmax score, classes not summed.

    Its value does not reach 0 at equality, its gradient does. Source: the foreground term that ggjy/DeFeat.pytorch
    compares with as TADF.

    Args:
        student: Logits with an axis c.
        teacher: Logits of the same shape; their softmax t is the target.
        temperature: Divides both logits; there is no factor T^2.
        axes: Filled in by the compiler.
    """
    same_shape(student, teacher)
    dim = dim_of("c", axes)
    own = (student / temperature).log_softmax(dim)
    target = (teacher / temperature).softmax(dim)
    rest = torch.log(-torch.expm1(own.clamp(max=SUREST)))
    return -target * own - (1 - target) * rest
