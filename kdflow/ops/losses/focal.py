"""Cross-entropy that looks away from what is already right."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional import dense_losses
from kdflow.functional.checks import same_shape
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("loss.focal", gives=like("student"))
def focal(
    student: AnyTensor,
    teacher: AnyTensor,
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.25,
    gamma: Annotated[float, Field(ge=0)] = 2.0,
) -> AnyTensor:
    """``a_t |t - sigmoid(student)|^gamma BCE(student, t)`` of every logit by itself, ``a_t = alpha t + (1 - alpha)(1 - t)``.

    The factor carries gradient. Source: Lin et al., ICCV 2017 (hard targets).

    Args:
        student: Logits of independent yes/no choices.
        teacher: Targets of the same shape, 0 and 1 such as those of ``transform.one_hot``, or soft ones in between: scores, not
            logits.
        alpha: Weight of what is wanted; 1 - alpha is that of the rest.
        gamma: Exponent of the error.
    """
    same_shape(student, teacher)
    return dense_losses.focal(single(student), single(teacher), alpha, gamma)
