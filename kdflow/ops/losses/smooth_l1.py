"""Absolute difference with a rounded bottom."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch.nn import functional

from kdflow.functional.checks import same_shape
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("loss.smooth_l1", gives=like("student"), zero_at_equality=True)
def smooth_l1(student: AnyTensor, teacher: AnyTensor, beta: Annotated[float, Field(ge=0)] = 1.0) -> AnyTensor:
    """``d^2 / (2 beta)`` where the difference d is below ``beta``, ``|d| - beta / 2`` above, element by element.

    Args:
        student: Any tensor.
        teacher: A tensor of the same shape.
        beta: Where the square becomes a line; 0 gives the absolute difference.
    """
    same_shape(student, teacher)
    return functional.smooth_l1_loss(student, teacher, reduction="none", beta=beta)
