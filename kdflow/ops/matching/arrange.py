"""Attention in the order of the other model's queries."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.kinds import Attentions, Pairs
from kdflow.operation import op


@op("matching.arrange")
def arrange(
    attention: Attentions, pairs: Pairs, like: Attentions, over: Literal["queries", "both"] = "queries"
) -> Attentions:
    """The teacher's attention with each query in the place of its partner of the student: per layer (B, h, Q, K).

    Queries of the student without a partner get zeros. Where the teacher's queries are not all paired and ``over`` is
    ``both``, the rows add up to 1 over the paired ones.

    Args:
        attention: Per layer (B, h, Q', K) of the teacher.
        pairs: Per layer and image (student index, teacher index).
        like: Per layer (B, h, Q, K) of the student, only counted.
        over: ``queries`` orders the rows alone (attention to places), ``both`` rows and columns (self-attention).
    """
    if len({len(attention), len(pairs), len(like)}) > 1:
        counts = f"{len(attention)} layers of the teacher, {len(like)} of the student and {len(pairs)} of pairs"
        raise UsageError(f"matching.arrange has {counts}; choose equally many, such as [0:3]")
    return [
        torch.stack([_place(own, pair, ours.shape[2], over) for own, pair in zip(theirs, images, strict=True)])
        for theirs, images, ours in zip(attention, pairs, like, strict=True)
    ]


def _place(attention: Tensor, pair: tuple[Tensor, Tensor], count: int, over: str) -> Tensor:
    """(h, Q', K) of one image -> (h, Q, K)."""
    ours, theirs = (index.to(attention.device) for index in pair)
    rows = attention[:, theirs]
    if over == "both":
        rows = rows[:, :, theirs]
        if len(theirs) < attention.shape[2]:
            rows = rows / rows.sum(-1, keepdim=True).clamp(min=1e-12)
        columns = rows.new_zeros((*rows.shape[:2], count))
        rows = columns.index_copy(2, ours, rows)
    return rows.new_zeros((len(rows), count, rows.shape[2])).index_copy(1, ours, rows)
