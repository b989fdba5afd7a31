"""Divergence of the ranking inside groups of places."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.functional.checks import same_shape
from kdflow.functional.precision import single
from kdflow.kinds import Cells, CellValues
from kdflow.operation import op


@op("loss.group_kl", zero_at_equality=True)
def group_kl(
    student: Cells, teacher: Cells, groups: CellValues, temperature: Annotated[float, Field(gt=0)] = 1.0
) -> Cells:
    """``T^2 * t (ln t - ln s)`` of every place, t and s its share of a softmax over the places of its group: (B, R, C).

    Places of a group are those of the same image with the same number; each class is ranked by itself. A group of one place,
    and places without a group, are 0. Summed over a group's places it is KL(teacher || student). Source: RM (AAAI 2022, arXiv
    2112.04840), which ranks the anchors of an object by their scores.

    Args:
        student: (B, R, C) scores or logits.
        teacher: The same shape.
        groups: (B, R) number of each place's group, below R; below 0 for none.
        temperature: Divides both sides.
    """
    same_shape(student, teacher)
    if groups.shape != student.shape[:2]:
        raise UsageError(f"student is {tuple(student.shape)}, groups are {tuple(groups.shape)}; give one number per place")
    index = _numbered(groups)
    ours, theirs = (_log_shares(single(t).flatten(0, 1) / temperature, index) for t in (student, teacher))
    known = (groups >= 0).flatten()[:, None]
    values = theirs.exp() * (theirs - ours) * temperature**2
    return torch.where(known, values, 0.0).view_as(student)


def _numbered(groups: Tensor) -> Tensor:
    """(B*R,) below 2BR: the place itself for those without a group, else one number per image and group behind these."""
    number = torch.arange(groups.numel(), device=groups.device).view_as(groups)
    first = groups.numel() + number - number % groups.shape[1]
    whole = groups.long()
    return torch.where(whole < 0, number, first + whole.clamp(max=groups.shape[1] - 1)).flatten()


def _log_shares(values: Tensor, index: Tensor) -> Tensor:
    """(N, C) logarithm of each row's share of the softmax over the rows of its index, which is below 2N."""
    where = index[:, None].expand_as(values)
    lowest = values.new_full((2 * len(values), values.shape[1]), -torch.inf)
    shifted = values - lowest.scatter_reduce(0, where, values.detach(), "amax").gather(0, where)
    total = torch.zeros_like(lowest).scatter_add(0, where, shifted.exp())
    return shifted - total.gather(0, where).log()
