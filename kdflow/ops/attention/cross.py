"""Queries that look at places."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from kdflow.functional.attention import attention_weights
from kdflow.kinds import ATTENTION, TOKENS, Cells, CellValues, Tokens, of_axes
from kdflow.operation import op

Positive = Annotated[int, Field(gt=0)]


@op(
    "attention.cross",
    gives={"states": TOKENS, "logits": ATTENTION, "values": of_axes(("b", "h", "k", "c"), None)},
    example={"channels": 8, "heads": 2},
)
class CrossAttention(nn.Module):
    """One decoder layer without self-attention: states, attention logits (before hiding and softmax), values per head.

    ``Q = query(e)``, ``K = key(f + position(p))``, ``V = value(f)``, ``logits = Q K^T / sqrt(head width)``; then ``out``,
    ``norm1`` of the sum with e, ``enter``-ReLU-``leave`` (four times as wide) and ``norm2``. Trained, not exported.
    Source: ICD (arXiv 2110.12724).

    Args:
        channels: Width of queries and states.
        heads: Attention heads.
    """

    def __init__(self, channels: Positive = 256, heads: Positive = 8) -> None:
        super().__init__()
        self.channels, self.heads = channels, heads

    def build(self, queries: Tokens, features: Cells, positions: Cells, visible: CellValues | None = None) -> None:
        """Size the layers."""
        inputs = features.shape[-1]
        self.position = nn.Linear(positions.shape[-1], inputs)
        self.query = nn.Linear(queries.shape[-1], self.channels)
        self.key = nn.Linear(inputs, self.channels)
        self.value = nn.Linear(inputs, self.channels)
        self.out = nn.Linear(self.channels, queries.shape[-1])
        self.enter = nn.Linear(queries.shape[-1], 4 * self.channels)
        self.leave = nn.Linear(4 * self.channels, queries.shape[-1])
        self.norm1, self.norm2 = nn.LayerNorm(queries.shape[-1]), nn.LayerNorm(queries.shape[-1])
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, queries: Tokens, features: Cells, positions: Cells, visible: CellValues | None = None
    ) -> dict[str, Any]:
        """``states`` (B, Q, D), ``logits`` (B, heads, Q, S) and ``values`` (B, heads, S, D / heads).

        Args:
            queries: (B, Q, D).
            features: (B, S, C) places.
            positions: (B, S, P) codes of the places.
            visible: (B, S) 0 on places that must not be looked at.
        """
        q = self._split(self.query(queries))
        k = self._split(self.key(features + self.position(positions)))
        v = self._split(self.value(features))
        logits = torch.einsum("bhqd,bhsd->bhqs", q, k) / q.shape[-1] ** 0.5
        weights = attention_weights(logits, visible)
        seen = torch.einsum("bhqs,bhsd->bhqd", weights, v).transpose(1, 2).flatten(2)
        states = self.norm1(queries + self.out(seen))
        states = self.norm2(states + self.leave(functional.relu(self.enter(states))))
        return {"states": states, "logits": logits, "values": v}

    def _split(self, features: Tensor) -> Tensor:
        return features.reshape(*features.shape[:2], self.heads, -1).transpose(1, 2)
