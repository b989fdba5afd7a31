"""Quality focal loss with a teacher's scores as targets."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from kdflow.functional import divergences
from kdflow.functional.checks import same_shape
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("loss.quality_focal", gives=like("student"), zero_at_equality=True)
def quality_focal(student: AnyTensor, teacher: AnyTensor, beta: Annotated[float, Field(ge=0)] = 1.0) -> AnyTensor:
    """``BCE(student, t) * |sigmoid(student) - t|^beta`` with t = sigmoid(teacher), of every logit, classes not summed.

    The factor carries gradient. With ``beta: 0`` it is the plain cross-entropy, which is not 0 at equality.
    Source: CrossKD (arXiv 2306.11369), ``KDQualityFocalLoss``.

    Args:
        student: Logits of independent yes/no choices.
        teacher: Logits of the same shape.
        beta: Exponent of the factor.
    """
    same_shape(student, teacher)
    return divergences.quality_focal(student, torch.sigmoid(teacher), beta)
