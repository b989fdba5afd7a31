"""Every place is compared with all (pooled) places of its map."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from kdflow.kinds import Pyramid
from kdflow.operation import op

Positive = Annotated[int, Field(gt=0)]


class NonLocalBlock(nn.Module):
    """``x + BN(out(theta(x)^T phi(x) g(x) / P))`` of one map; g and phi are pooled to P places."""

    def __init__(self, channels: int, hidden: int, pool: int) -> None:
        super().__init__()
        self.pool = pool
        self.g = nn.Conv2d(channels, hidden, 1)
        self.theta = nn.Conv2d(channels, hidden, 1)
        self.phi = nn.Conv2d(channels, hidden, 1)
        self.out = nn.Conv2d(hidden, channels, 1)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn.weight)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        size = features.shape[-2:]
        window = [min(self.pool, side) for side in size]
        values = functional.max_pool2d(self.g(features), window).flatten(2)
        keys = functional.max_pool2d(self.phi(features), window).flatten(2)
        # (theta^T phi) g = theta^T (phi g): the large table of all pairs of places is never made
        summary = torch.einsum("bip,bjp->bij", keys, values) / keys.shape[-1]
        mixed = torch.einsum("bihw,bij->bjhw", self.theta(features), summary)
        return features + self.bn(self.out(mixed))


@op("generator.nonlocal")
class NonLocal(nn.Module):
    """Non-local block per level, dot-product form: ``F + BN(W ((theta(F)^T phi(F) / P) g(F)))``. Trained, not exported.

    g and phi are max-pooled to P places before they meet every place. Starts as the identity: the weight and bias of the
    BatchNorm are 0. Blocks are named ``blocks.<level>`` with the layers ``g``, ``theta``, ``phi``, ``out``, ``bn``.
    Sources: Wang et al. 2018, and TAED (ICLR 2021), whose levels differ in width and pooling.

    Args:
        channels: Hidden channels per level; the last entry also holds for all further levels. 0 takes half of the map's.
        pool: Side and step of the max-pooling per level, likewise; 1 pools nothing, and a map smaller than it is pooled
            to one place.
    """

    blocks: nn.ModuleList

    def __init__(
        self, channels: tuple[Annotated[int, Field(ge=0)], ...] = (0,), pool: tuple[Positive, ...] = (2,)
    ) -> None:
        super().__init__()
        self.channels, self.pool = channels or (0,), pool or (1,)

    def build(self, features: Pyramid) -> None:
        """One block per level."""
        self.blocks = nn.ModuleList()
        for level, one in enumerate(features):
            width = one.shape[1]
            hidden = self.channels[min(level, len(self.channels) - 1)] or max(1, width // 2)
            self.blocks.append(NonLocalBlock(width, hidden, self.pool[min(level, len(self.pool) - 1)]))

    def forward(self, features: Pyramid) -> Pyramid:
        """(B, C, H, W) -> (B, C, H, W) per level.

        Args:
            features: Maps per level.
        """
        return [block(level) for block, level in zip(self.blocks, features, strict=True)]
