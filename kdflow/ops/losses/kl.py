"""KL divergence of softmax distributions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kdflow.functional.axes import dim_of
from kdflow.functional.checks import same_shape
from kdflow.functional.divergences import kl_divergence
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("loss.kl", gives=like("student", drop="c"), zero_at_equality=True)
def kl(
    student: AnyTensor,
    teacher: AnyTensor,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    direction: Literal["forward", "reverse"] = "forward",
    scale: Literal["squared", "none"] = "squared",
    axes: Axes = (),
) -> AnyTensor:
    """``T^2 * sum_c q_t (ln q_t - ln q_s)`` with q = softmax(logits / T) over classes or bins ``c``, which are used up.

    A mean over c is ``over: [c]`` in the term's reduction. Source: Hinton et al. 2015; the divergence of mmrazor
    ``kl_divergence.py`` and DeFeat, without their reductions.

    Args:
        student: Logits with an axis c.
        teacher: Logits of the same shape.
        temperature: T, softens both distributions.
        direction: ``forward`` is KL(teacher || student), ``reverse`` KL(student || teacher).
        scale: ``squared`` multiplies by T^2, so that gradients keep their size.
        axes: Filled in by the compiler.
    """
    same_shape(student, teacher)
    values = kl_divergence(student, teacher, dim_of("c", axes), temperature, direction)
    return values * temperature**2 if scale == "squared" else values
