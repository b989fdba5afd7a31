"""KL divergence of softmax distributions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from kdflow.functional.axes import dims_of
from kdflow.functional.checks import same_shape
from kdflow.functional.divergences import kl_divergence
from kdflow.functional.groups import grouped
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("loss.kl", gives=like("student", drops="over", unless="groups"), zero_at_equality=True, example={"groups": None})
def kl(
    student: AnyTensor,
    teacher: AnyTensor,
    groups: AnyTensor | None = None,
    over: tuple[str, ...] = ("c",),
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    direction: Literal["forward", "reverse"] = "forward",
    scale: Literal["squared", "none"] = "squared",
    axes: Axes = (),
) -> AnyTensor:
    """``T^2 * sum q_t (ln q_t - ln q_s)`` with q = softmax(logits / T) over the named axes together, which are used up.

    A mean over classes is ``over: [c]`` in the term's reduction. With ``groups`` each group is a distribution of its own, and
    every entry keeps its summand: summed over a group it is the divergence; 0 for a group of one, and without a group.
    Sources: Hinton et al. 2015, the divergence of mmrazor ``kl_divergence.py`` and DeFeat; over places CWD (arXiv 2011.13256,
    mmrazor ``cwd.py``); in groups the ranks of RM (arXiv 2112.04840). All without their reductions.

    Args:
        student: Logits.
        teacher: Logits of the same shape.
        groups: A number for each entry of the leading axes, such as (N,) for rows; equal numbers are one group, below 0 is none.
            Axes that ``over`` leaves out, such as images, stay apart.
        over: Axes of one distribution: ``[c]`` classes or bins, ``[y, x]`` the places of each channel, ``[r]`` dense places.
        temperature: T, softens both distributions.
        direction: ``forward`` is KL(teacher || student), ``reverse`` KL(student || teacher).
        scale: ``squared`` multiplies by T^2, so that gradients keep their size.
        axes: Filled in by the compiler.
    """
    same_shape(student, teacher)
    dims = dims_of(over, axes)
    if groups is None:
        values = kl_divergence(student, teacher, dims[0] if len(dims) == 1 else dims, temperature, direction)
    else:
        own = grouped(groups, student, dims)
        ours, theirs = (own.log_shares(single(side) / temperature) for side in (student, teacher))
        values = _summands(*((theirs, ours) if direction == "forward" else (ours, theirs)))
    return values * temperature**2 if scale == "squared" else values


def _summands(reference: Tensor, other: Tensor) -> Tensor:
    return reference.exp() * (reference - other)
