"""Squared difference, weighted by how certain the student can be."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional.checks import same_shape
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("loss.uncertain_squared_error", gives=like("student"))
def uncertain_squared_error(
    student: AnyTensor, teacher: AnyTensor, log_variance: AnyTensor, eps: Annotated[float, Field(ge=0)] = 1e-6
) -> AnyTensor:
    """``(teacher - student)^2 / (exp(v) + eps) + v``, element by element: a Gaussian likelihood with log variance v.

    Negative values are normal. For a fixed error e the least value is ``1 + log(e^2)``, at ``v = log(e^2)``. Gradient reaches
    student and log variance. Source: PAD (ECCV 2020), as in torchdistill ``PADL2Loss``.

    Args:
        student: Any tensor.
        teacher: The same shape.
        log_variance: v, the same shape, predicted from the student's features.
        eps: Added to the variance.
    """
    same_shape(student, teacher)
    same_shape(student, log_variance)
    return (teacher - student).square() / (log_variance.exp() + eps) + log_variance
