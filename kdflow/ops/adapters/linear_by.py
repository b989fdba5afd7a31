"""A linear layer for each kind of row."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from kdflow.kinds import Rows, RowValues
from kdflow.operation import op
from kdflow.ops.adapters._layers import width


@op("adapter.linear_by", example={"kinds": 2})
class LinearByKind(nn.Module):
    """One linear layer per kind of row, such as per anchor of a cell; every row goes through the layer of its kind.

    Trained, not exported. Weights are ``weight`` (K, C_out, C_in) and ``bias`` (K, C_out), drawn like torch's linear layers.
    Source: LutingWang/HEAD, branch ``dev``.

    Args:
        kinds: Number of kinds K.
        channels: Output channels; none takes those of ``like``, or keeps the input's.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, kinds: Annotated[int, Field(gt=0)], channels: Annotated[int, Field(gt=0)] | None = None) -> None:
        super().__init__()
        self.kinds, self.channels = kinds, channels

    def build(self, features: Rows, by: RowValues, like: Rows | None = None) -> None:
        """Size the layers from the channels of ``features`` and ``like``."""
        inputs, outputs = features.shape[1], width(self.channels, features, like, dim=1)
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(self.kinds, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(self.kinds, outputs).uniform_(-bound, bound))

    def forward(self, features: Rows, by: RowValues, like: Rows | None = None) -> Rows:
        """(N, C_in) -> (N, C_out).

        Args:
            features: Rows.
            by: (N,) kind of each row, 0 to K-1; rows outside of that go through the nearest layer.
            like: Only its channels are counted, when the layers are built.
        """
        kind = by.long().clamp(0, self.kinds - 1)
        every = torch.einsum("nc,kdc->nkd", features, self.weight) + self.bias
        return every.gather(1, kind[:, None, None].expand(-1, 1, every.shape[2])).squeeze(1)
