"""Every place learns what the whole map holds."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from kdflow.kinds import Map
from kdflow.operation import op


@op("generator.context")
class ContextBlock(nn.Module):
    """Global context block: ``F + W2 relu(LN(W1 v))`` with the attended mean ``v = sum_yx softmax_yx(k * F) F``.

    Starts as the identity: ``expand`` (W2) is zero. Layers are named ``key``, ``reduce``, ``norm``, ``expand``. Trained
    on either side, not exported. Sources: GCNet (Cao et al., 2019), FGD ``fgd.py``.

    Args:
        ratio: Channels over hidden channels.
    """

    key: nn.Conv2d
    reduce: nn.Conv2d
    norm: nn.LayerNorm
    expand: nn.Conv2d

    def __init__(self, ratio: Annotated[int, Field(gt=0)] = 2) -> None:
        super().__init__()
        self.ratio = ratio

    def build(self, features: Map) -> None:
        """Size the layers."""
        channels = features.shape[1]
        hidden = max(1, channels // self.ratio)
        self.key = nn.Conv2d(channels, 1, 1)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.norm = nn.LayerNorm([hidden, 1, 1])
        self.expand = nn.Conv2d(hidden, channels, 1)
        nn.init.kaiming_normal_(self.key.weight, mode="fan_in", nonlinearity="relu")
        for zero in (self.key.bias, self.expand.weight, self.expand.bias):
            if zero is not None:
                nn.init.zeros_(zero)

    def forward(self, features: Map) -> Map:
        """(B, C, H, W) -> (B, C, H, W).

        Args:
            features: Maps.
        """
        attention = self.key(features).flatten(2).softmax(2)
        context = torch.einsum("bcs,bs->bc", features.flatten(2), attention.squeeze(1))
        hidden = self.norm(self.reduce(context[:, :, None, None]))
        return features + self.expand(functional.relu(hidden))
