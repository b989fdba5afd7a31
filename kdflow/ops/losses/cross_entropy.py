"""Cross-entropy with a teacher's softmax as soft target."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.functional.axes import last
from kdflow.functional.checks import same_shape
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op

Weight = Annotated[float, Field(ge=0)]


@op("loss.cross_entropy", gives=like("student", drop="c"))
def cross_entropy(
    student: AnyTensor,
    teacher: AnyTensor,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    weights: tuple[Weight, ...] = (),
    background: Weight | None = None,
    background_at: Literal["last", "first", "implied"] = "last",
    axes: Axes = (),
) -> AnyTensor:
    """``-sum_c w_c t_c ln s_c`` with t and s the softmax of logits / T; the classes ``c`` are used up.

    At equal logits its value is the teacher's (weighted) entropy. There is no factor T^2. Sources: Hinton et al. 2015; with a
    background weight Chen et al., NeurIPS 2017.

    Args:
        student: Logits with an axis c.
        teacher: Logits of the same shape.
        temperature: T.
        weights: w_c of every column; none weighs all by 1.
        background: w_c of the background's column alone.
        background_at: Which column that is. ``implied``: there is none, its logit is 0, as for the single objectness logit
            of a region proposal network.
        axes: Filled in by the compiler.
    """
    same_shape(student, teacher)
    ours, theirs = (last("c", single(logits), axes) for logits in (student, teacher))
    if background_at == "implied":
        ours, theirs = (torch.cat([logits, logits.new_zeros(*logits.shape[:-1], 1)], -1) for logits in (ours, theirs))
    entropy = -(theirs / temperature).softmax(-1) * (ours / temperature).log_softmax(-1)
    return (entropy * _weights(ours, weights, background, background_at)).sum(-1)


def _weights(logits: Tensor, weights: tuple[float, ...], background: float | None, place: str) -> Tensor:
    if weights and len(weights) != logits.shape[-1]:
        raise UsageError(f"weights: {len(weights)} numbers for {logits.shape[-1]} classes; give one for each")
    found = logits.new_tensor(weights) if weights else logits.new_ones(logits.shape[-1])
    if background is not None:
        found[0 if place == "first" else -1] = background
    return found
