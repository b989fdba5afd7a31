"""Masks that are learned: one per token."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from kdflow.kinds import Map, of_axes
from kdflow.operation import op

MASKS = of_axes(("b", "m", "y", "x"), None)
WEIGHTS = of_axes(("b", "m"), None)


@op("mask.tokens", gives={"masks": MASKS, "weights": WEIGHTS})
class TokenMasks(nn.Module):
    """``sigmoid(E F)`` per token and place, (B, M, H, W), and softmax weights of the tokens, (B, M).

    The weights come from a 3x3 convolution, the mean over all places and a 1x1 convolution; ``weighted: false`` gives
    every token a weight of 1 instead. Parameters are named ``tokens``, ``look`` and ``judge``. Trained, not exported.
    Source: MasKD (arXiv 2205.14589).

    Args:
        count: Number of tokens M.
        weighted: Whether tokens have weights of their own per image.
    """

    tokens: nn.Parameter
    look: nn.Conv2d
    judge: nn.Conv2d

    def __init__(self, count: Annotated[int, Field(gt=0)] = 6, weighted: bool = True) -> None:
        super().__init__()
        self.count, self.weighted = count, weighted

    def build(self, features: Map) -> None:
        """Size the layers."""
        channels = features.shape[1]
        self.tokens = nn.Parameter(torch.randn(self.count, channels) * 0.01)
        if self.weighted:
            self.look = nn.Conv2d(channels, channels, 3, padding=1)
            self.judge = nn.Conv2d(channels, self.count, 1)
            for layer in (self.look, self.judge):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: Map) -> dict[str, Any]:
        """``masks`` (B, M, H, W) and ``weights`` (B, M).

        Args:
            features: (B, C, H, W) maps.
        """
        masks = torch.einsum("mc,bchw->bmhw", self.tokens, features).sigmoid()
        if not self.weighted:
            return {"masks": masks, "weights": masks.new_ones(masks.shape[:2])}
        logits = self.judge(self.look(features).mean((2, 3), keepdim=True))
        return {"masks": masks, "weights": logits.flatten(1).softmax(1)}
