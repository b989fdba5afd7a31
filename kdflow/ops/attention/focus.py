"""What some queries look at, together."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

from kdflow.functional.attention import attention_weights
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor, Attention, TokenValues, of_axes
from kdflow.operation import op

Focus = Annotated[Any, of_axes(("b", "h", "k"), None)]


@op("attention.focus", no_grad=True, example={"visible": "b k"})
def focus(
    logits: Attention,
    queries: TokenValues,
    visible: AnyTensor | None = None,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
) -> Focus:
    """``sum_q weight_q * softmax_k(logits / T)``, per head: (B, heads, K), without gradient.

    Args:
        logits: (B, heads, Q, K) attention before the softmax.
        queries: (B, Q) weight of every query, 0 leaves it out.
        visible: (B, K) 0 on places that must not be looked at.
        temperature: T.
    """
    return torch.einsum("bhqk,bq->bhk", attention_weights(single(logits) / temperature, visible), single(queries))
