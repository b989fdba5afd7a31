"""Two maps of one size become one."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from kdflow.errors import UsageError
from kdflow.kinds import MAP, Map, of_axes
from kdflow.operation import op


@op("generator.fuse", gives={"maps": MAP, "gates": of_axes(("b", "m"), None)})
class Fuse(nn.Module):
    """``g_0 * high + g_1 * low`` with two gates per image that sum to 1.

    The gates are the softmax over two outputs of a bottleneck on the mean over all places of both maps, joined in this order:
    linear (named ``squeeze``), ReLU, linear (``judge``), both without bias. Outputs ``maps`` (B, C, H, W) and ``gates`` (B, 2).
    Gradient flows to both maps. Trained, not exported. Source: MSAD (arXiv 2109.06875), cross feature-level fusion.

    Args:
        reduction: Joined channels per channel of the bottleneck, which has at least one.
    """

    squeeze: nn.Linear
    judge: nn.Linear

    def __init__(self, reduction: Annotated[int, Field(gt=0)] = 16) -> None:
        super().__init__()
        self.reduction = reduction

    def build(self, high: Map, low: Map) -> None:
        """Size the layers."""
        joined = high.shape[1] + low.shape[1]
        width = max(1, joined // self.reduction)
        self.squeeze = nn.Linear(joined, width, bias=False)
        self.judge = nn.Linear(width, 2, bias=False)
        for layer in (self.squeeze, self.judge):
            nn.init.kaiming_uniform_(layer.weight, a=1)

    def forward(self, high: Map, low: Map) -> dict[str, Any]:
        """Both maps as one.

        Args:
            high: (B, C, H, W) maps.
            low: Maps of the same shape.
        """
        if high.shape != low.shape:
            raise UsageError(
                f"the maps differ in shape, {tuple(high.shape)} and {tuple(low.shape)}; choose levels of one size"
            )
        seen = torch.cat([high, low], dim=1).mean((2, 3))
        gates = self.judge(self.squeeze(seen).relu()).softmax(1)
        first, second = gates[:, :, None, None, None].unbind(1)
        return {"maps": first * high + second * low, "gates": gates}
