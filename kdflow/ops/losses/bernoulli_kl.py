"""KL divergence of sigmoid scores."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional import divergences
from kdflow.functional.checks import same_shape
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("loss.bernoulli_kl", gives=like("student"), zero_at_equality=True)
def bernoulli_kl(student: AnyTensor, teacher: AnyTensor, temperature: Annotated[float, Field(gt=0)] = 1.0) -> AnyTensor:
    """``T^2 * KL(sigmoid(teacher / T) || sigmoid(student / T))`` of every logit by itself, classes not summed.

    Args:
        student: Logits of independent yes/no choices (sigmoid heads, objectness).
        teacher: Logits of the same shape.
        temperature: T.
    """
    same_shape(student, teacher)
    return divergences.bernoulli_kl(student, teacher, temperature) * temperature**2
