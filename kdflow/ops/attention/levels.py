"""Blocks of several levels as one, by how well each level suits the other model's block."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from kdflow.kinds import ROW_BLOCKS, RowBlocks, of_axes
from kdflow.operation import op

Positive = Annotated[int, Field(gt=0)]
SIDE = 7
LevelBlocks = Annotated[Any, of_axes(("n", "c", "y", "x"), "levels")]


@op(
    "attention.levels",
    gives={"blocks": ROW_BLOCKS, "weights": of_axes(("n", "m"), None)},
    example={"hidden": 4, "width": 2},
)
class LevelAttention(nn.Module):
    """Semantic-guided fusion: ``blocks`` (N, C, h, w), the levels' sum by ``weights`` (N, L), which add up to 1 per row.

    ``F_l = adapter(student block of level l)``, a 1x1 convolution that all levels share; ``weights = softmax over levels of
    <E(F_l), E(T)> / tau``. The embedding E, shared by both models, is two 3x3 convolutions of stride 2 without padding, each
    with ReLU, and the mean over what places remain (none but one for 7x7 blocks). All of it trains, with gradient to E through
    both sides, and none is exported. Layers are named ``adapter``, ``embed.0``, ``embed.1`` and ``tau``. Source: G-DetKD
    (arXiv 2108.07482), constants of LutingWang/todd.

    Args:
        hidden: Channels of the embedding's first layer.
        width: Numbers of an embedded block.
        temperature: First value of tau.
    """

    adapter: nn.Conv2d
    embed: nn.ModuleList

    def __init__(
        self, hidden: Positive = 128, width: Positive = 64, temperature: Annotated[float, Field(gt=0)] = 1.0
    ) -> None:
        super().__init__()
        self.hidden, self.width = hidden, width
        self.tau = nn.Parameter(torch.tensor(temperature))

    def build(self, features: LevelBlocks, like: RowBlocks) -> None:
        """Size the layers."""
        channels = like.shape[1]
        self.adapter = nn.Conv2d(features[0].shape[1], channels, 1)
        self.embed = nn.ModuleList([nn.Conv2d(channels, self.hidden, 3, 2), nn.Conv2d(self.hidden, self.width, 3, 2)])

    def forward(self, features: LevelBlocks, like: RowBlocks) -> dict[str, Any]:
        """``blocks`` (N, C, h, w) and ``weights`` (N, L).

        Args:
            features: Per level (N, C', h, w) blocks of the student, as ``regions.pool_every`` gives them; smaller ones than
                7x7 are filled up with zeros to be embedded.
            like: (N, C, h, w) blocks of the teacher.
        """
        adapted = torch.stack([self.adapter(level) for level in features])
        count, rows = adapted.shape[:2]
        ours = self._embedded(adapted.flatten(0, 1)).reshape(count, rows, self.width)
        likeness = torch.einsum("lnd,nd->nl", ours, self._embedded(like))
        weights = (likeness / self.tau).softmax(1)
        return {"blocks": torch.einsum("lncyx,nl->ncyx", adapted, weights), "weights": weights}

    def _embedded(self, blocks: Tensor) -> Tensor:
        short = [max(0, SIDE - side) for side in blocks.shape[-2:]]
        blocks = functional.pad(blocks, (0, short[1], 0, short[0]))
        for layer in self.embed:
            blocks = functional.relu(layer(blocks))
        return blocks.mean((2, 3))
