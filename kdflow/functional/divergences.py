"""How far predicted distributions are from those of a teacher. All keep their elements; reductions happen elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


def kl_divergence(
    student: Tensor, teacher: Tensor, dim: int | Sequence[int] = -1, temperature: float = 1.0,
    direction: Literal["forward", "reverse"] = "forward",
) -> Tensor:
    """KL divergence of softmax distributions, without temperature factor.

    ``forward`` is KL(teacher || student) = sum q_t (ln q_t - ln q_s), ``reverse`` swaps the two; q = softmax(logits /
    T).

    Args:
        student: Logits.
        teacher: Logits of the same shape.
        dim: Axis of the distribution, or several together; they are summed away.
        temperature: T.
        direction: Which of the two is the reference.
    """
    if not isinstance(dim, int):
        student, teacher, dim = _together(student, dim), _together(teacher, dim), -1
    ours = functional.log_softmax(student / temperature, dim)
    theirs = functional.log_softmax(teacher / temperature, dim)
    reference, other = (theirs, ours) if direction == "forward" else (ours, theirs)
    return (reference.exp() * (reference - other)).sum(dim)


def _together(values: Tensor, dims: Sequence[int]) -> Tensor:
    """The values with these axes as one, the last."""
    return values.movedim(tuple(dims), tuple(range(-len(dims), 0))).flatten(values.dim() - len(dims))


def bernoulli_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of independent two-way choices given by one logit each, without temperature factor."""
    s, t = student / temperature, teacher / temperature
    chance = torch.sigmoid(t)
    yes = functional.logsigmoid(t) - functional.logsigmoid(s)
    no = functional.logsigmoid(-t) - functional.logsigmoid(-s)
    return chance * yes + (1 - chance) * no


def soft_cross_entropy(student: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of one logit with a target in 0..1, element by element."""
    return functional.binary_cross_entropy_with_logits(student, target, reduction="none")


def quality_focal(student: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    """Quality focal loss: binary cross-entropy times ``|sigmoid(student) - target|^beta``, the factor not detached.

    Source: Li et al., NeurIPS 2020 (mmdetection ``gfocal_loss.py``); with a teacher's score as target, CrossKD's
    KD-QFL.

    Args:
        student: Logits.
        target: Scores in 0..1.
        beta: Exponent; 0 gives the plain cross-entropy.
    """
    entropy = soft_cross_entropy(student, target)
    if beta == 0:
        return entropy
    gap = (torch.sigmoid(student) - target).abs()
    apart = gap > 0
    return entropy * torch.where(apart, torch.where(apart, gap, 1.0).pow(beta), 0.0)
