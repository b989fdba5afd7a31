"""Tell the matching row from all others."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.functional.checks import same_shape
from kdflow.functional.statistics import unit
from kdflow.kinds import Rows, RowValues, of_axes
from kdflow.operation import op

Table = Annotated[Any, of_axes(("n", "m"), None)]


@op("loss.contrastive", example={"rivals": "n n"})
def contrastive(
    student: Rows,
    teacher: Rows,
    rivals: Table | None = None,
    more: Rows | None = None,
    temperature: Annotated[float, Field(gt=0)] = 0.07,
    anchor: Literal["teacher", "student"] = "teacher",
    positive: Literal["counted", "left_out"] = "counted",
) -> RowValues:
    """InfoNCE: each row of one side must find the row of its own number among all of the other side, (N,).

    ``-ln(e_ii / sum_j e_ij)`` with ``e_ij = exp(cos(anchor_i, other_j) / T)``; all rows of the batch are each other's
    negatives unless ``rivals`` says otherwise. Gradient flows to both sides. It is not 0 at equality. Sources: DETRDistill
    (the teacher's rows look for the student's), G-DetKD (the student's look for the teacher's, with rivals and memory).

    Args:
        student: (N, C) rows.
        teacher: (N, C) rows of the same objects.
        rivals: (N, N) above 0 where row j may stand against row i, such as no overlapping box; none lets all.
        more: (M, C) further negatives of the side that is searched, such as ``tap.recent``; zero rows are left out.
        temperature: T.
        anchor: Whose rows look for their partner.
        positive: ``left_out`` keeps the partner out of the sum, so the value may be negative; a row without rivals gives 0.
    """
    same_shape(student, teacher)
    looking, found = (teacher, student) if anchor == "teacher" else (student, teacher)
    looking, found = unit(looking, (1,)), unit(found, (1,))
    table = looking @ found.T / temperature
    own = torch.eye(len(table), dtype=torch.bool, device=table.device)
    allowed = torch.ones_like(own) if rivals is None else _square(rivals, table) > 0
    allowed = allowed | own if positive == "counted" else allowed & ~own
    others, allowed_more = table, allowed
    if more is not None:
        others = torch.cat([table, looking @ unit(more, (1,)).T / temperature], dim=1)
        allowed_more = torch.cat([allowed, more.any(1)[None].expand(len(table), -1)], dim=1)
    any_rival = allowed_more.any(1)
    hidden = ~allowed_more & any_rival[:, None]
    sums = torch.logsumexp(others.masked_fill(hidden, -torch.inf), 1) if others.shape[1] else table.sum(1)
    return torch.where(any_rival, sums - table.diagonal(), 0.0)


def _square(rivals: Tensor, table: Tensor) -> Tensor:
    if rivals.shape != table.shape:
        raise UsageError(f"rivals are {tuple(rivals.shape)}, and {tuple(table.shape)} pairs of rows are compared")
    return rivals
