"""Binary cross-entropy between probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from kdflow.functional.checks import same_shape
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op

FLOOR = -100.0


@op("loss.probability_cross_entropy", gives=like("student"))
def probability_cross_entropy(student: AnyTensor, teacher: AnyTensor) -> AnyTensor:
    """``-(t ln s + (1 - t) ln(1 - s))`` of every probability by itself, such as each of a softmax, not summed.

    Logarithms are at least -100, with no gradient below. At equality the value is the entropy of the teacher and the
    gradient 0. For logits take ``loss.binary_cross_entropy``, which is safer.

    Args:
        student: Probabilities in 0..1; what lies outside counts as 0 or 1.
        teacher: Probabilities of the same shape.
    """
    same_shape(student, teacher)
    ours, theirs = single(student), single(teacher)
    return -(theirs * _floored_log(ours) + (1 - theirs) * _floored_log(1 - ours))


def _floored_log(values: Tensor) -> Tensor:
    """``max(ln values, -100)``; -100 and no gradient at 0, 0 and no gradient above 1."""
    inner = (values > 0) & (values <= 1)
    logarithm = torch.where(inner, values, 1.0).log().clamp(min=FLOOR)
    return torch.where(values > 0, logarithm, FLOOR)
