"""Coarse levels flow into the finer ones."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from kdflow.functional.resizing import resize_to
from kdflow.kinds import PYRAMID, Pyramid
from kdflow.operation import op


class FusionBlock(nn.Module):
    """One level: its own map and the coarser level's, mixed by two learned gates; ``attention`` is None at the top."""

    def __init__(self, inputs: int, width: int, outputs: int, fuse: bool) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(inputs, width, 1, bias=False)
        self.lateral_norm = nn.BatchNorm2d(width)
        self.attention = nn.Conv2d(2 * width, 2, 1) if fuse else None
        self.output = nn.Conv2d(width, outputs, 3, padding=1, bias=False)
        self.output_norm = nn.BatchNorm2d(outputs)
        nn.init.kaiming_uniform_(self.lateral.weight, a=1)
        nn.init.kaiming_uniform_(self.output.weight, a=1)

    def forward(self, features: Tensor, above: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is compared, and what is handed down."""
        mixed = self.lateral_norm(self.lateral(features))
        if self.attention is not None and above is not None:
            above = resize_to(above, (features.shape[-2], features.shape[-1]), "nearest")
            gates = torch.sigmoid(self.attention(torch.cat([mixed, above], dim=1)))
            mixed = mixed * gates[:, :1] + above * gates[:, 1:]
        return self.output_norm(self.output(mixed)), mixed


@op("generator.review", gives=PYRAMID)
class Review(nn.Module):
    """Top-down chain of fusion blocks from the coarsest to the finest level, each giving a map for the teacher's level.

    Trained, not exported. Blocks are ``blocks.<level>``, finest first, with layers ``lateral``, ``lateral_norm``,
    ``attention``, ``output`` and ``output_norm``. Source: ReviewKD (arXiv 2104.09044), ``kd_trans.py``.

    Args:
        width: Channels inside the blocks.
    """

    def __init__(self, width: Annotated[int, Field(gt=0)] = 256) -> None:
        super().__init__()
        self.width = width
        self.blocks = nn.ModuleList()

    def build(self, features: Pyramid, like: Pyramid) -> None:
        """One block per level, from the channels of both sides."""
        last = len(features) - 1
        for level, (own, other) in enumerate(zip(features, like, strict=True)):
            self.blocks.append(FusionBlock(own.shape[1], self.width, other.shape[1], fuse=level < last))

    def forward(self, features: Pyramid, like: Pyramid) -> Any:
        """Maps per level with the channels of ``like``, finest first.

        Args:
            features: The student's maps, finest first.
            like: Only its channels are read, when the blocks are built.
        """
        above: Tensor | None = None
        results: list[Tensor] = []
        for block, level in zip(reversed(self.blocks), reversed(features), strict=True):
            result, above = block(level, above)
            results.append(result)
        return results[::-1]
