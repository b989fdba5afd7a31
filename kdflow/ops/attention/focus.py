"""What some queries look at, together."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

from kdflow.functional.precision import single
from kdflow.kinds import Attention, TokenValues, of_axes
from kdflow.operation import op

Focus = Annotated[Any, of_axes(("b", "h", "k"), None)]


@op("attention.focus", no_grad=True)
def focus(logits: Attention, queries: TokenValues, temperature: Annotated[float, Field(gt=0)] = 1.0) -> Focus:
    """``sum_q weight_q * softmax_k(logits / T)``, per head: (B, heads, K), without gradient.

    Args:
        logits: (B, heads, Q, K) attention before the softmax.
        queries: (B, Q) weight of every query, 0 leaves it out.
        temperature: T.
    """
    return torch.einsum("bhqk,bq->bhk", (single(logits) / temperature).softmax(-1), single(queries))
