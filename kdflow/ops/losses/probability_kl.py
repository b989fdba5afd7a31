"""KL divergence of distributions that are given as probabilities."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional.axes import dim_of
from kdflow.functional.checks import same_shape
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("loss.probability_kl", gives=like("student", drop=("k", "c")), zero_at_equality=True)
def probability_kl(
    student: AnyTensor, teacher: AnyTensor, eps: Annotated[float, Field(gt=0)] = 1e-12, axes: Axes = ()
) -> AnyTensor:
    """``sum t (ln t - ln s)`` over attended places ``k`` or, where there are none, classes ``c``, which are used up.

    A place that the teacher gives 0 adds 0. For logits take ``loss.kl``, which is safer.

    Args:
        student: Probabilities, such as ``student.decoder.self_attention``.
        teacher: Probabilities of the same shape.
        eps: Lower bound inside both logarithms; the student gets no gradient below it.
        axes: Filled in by the compiler.
    """
    same_shape(student, teacher)
    ours, theirs = single(student), single(teacher)
    gaps = theirs.clamp(min=eps).log() - ours.clamp(min=eps).log()
    return (theirs * gaps).sum(dim_of("k" if "k" in axes else "c", axes))
