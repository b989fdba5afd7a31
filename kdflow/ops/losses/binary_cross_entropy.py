"""Binary cross-entropy with a teacher's scores as soft targets."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from kdflow.functional.checks import same_shape
from kdflow.functional.divergences import soft_cross_entropy
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("loss.binary_cross_entropy", gives=like("student"))
def binary_cross_entropy(
    student: AnyTensor, teacher: AnyTensor, temperature: Annotated[float, Field(gt=0)] = 1.0
) -> AnyTensor:
    """``T^2 * BCE(student / T, sigmoid(teacher / T))`` of every logit by itself, classes not summed.

    Its gradient is that of ``loss.bernoulli_kl``; its value does not reach 0 at equality.

    Args:
        student: Logits of independent yes/no choices.
        teacher: Logits of the same shape.
        temperature: T.
    """
    same_shape(student, teacher)
    return soft_cross_entropy(student / temperature, torch.sigmoid(teacher / temperature)) * temperature**2
