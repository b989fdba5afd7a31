"""Rebuild a map from what is left of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn
from torch.nn import functional

from kdflow.kinds import Map, Mask
from kdflow.operation import op


@op("generator.rebuild")
class Rebuild(nn.Module):
    """Two convolutions with a ReLU between them, on masked maps. Trained, not exported.

    Layers are named ``conv1`` and ``conv2``; torch's initialisation. Source: MGD (arXiv 2205.01529), ``mgd.py``.

    Args:
        kernel: Side of both kernels (odd).
    """

    conv1: nn.Conv2d
    conv2: nn.Conv2d

    def __init__(self, kernel: Annotated[int, Field(gt=0)] = 3) -> None:
        super().__init__()
        self.kernel = kernel

    def build(self, features: Map, mask: Mask | None = None) -> None:
        """Size the layers."""
        channels = features.shape[1]
        self.conv1 = nn.Conv2d(channels, channels, self.kernel, padding=self.kernel // 2)
        self.conv2 = nn.Conv2d(channels, channels, self.kernel, padding=self.kernel // 2)

    def forward(self, features: Map, mask: Mask | None = None) -> Map:
        """(B, C, H, W) -> (B, C, H, W).

        Args:
            features: Maps.
            mask: (B, 1, H, W) factor on the input; kept values are not scaled up.
        """
        seen = features if mask is None else features * mask.to(features.dtype)
        return self.conv2(functional.relu(self.conv1(seen)))
