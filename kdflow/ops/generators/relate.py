"""Every region learns from the others of its image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdflow.errors import UsageError
from kdflow.kinds import Boxes, RowBlocks, RowValues
from kdflow.operation import op


@op("generator.relate")
class Relate(nn.Module):
    """``z + W softmax(theta(z) phi(z)^T) g(z)`` over the regions of each image, their blocks flattened to z; not exported.

    Linear layers ``theta``, ``phi``, ``g`` (D to D/2) and ``out`` (W, back to D), with bias. Source: DRKD (arXiv 2302.05637),
    whose two-stage code multiplies the table by ``softmax(z filter^T + offset)`` before its softmax, with a filter that is drawn
    anew at every call.
    """

    def build(
        self, features: RowBlocks, boxes: Boxes, filter: RowBlocks | None = None, offset: RowValues | None = None
    ) -> None:
        """Size the layers."""
        width = features.shape[1:].numel()
        self.theta, self.phi, self.g = (nn.Linear(width, width // 2) for _ in range(3))
        self.out = nn.Linear(width // 2, width)

    def forward(
        self, features: RowBlocks, boxes: Boxes, filter: RowBlocks | None = None, offset: RowValues | None = None
    ) -> RowBlocks:
        """(N, C, h, w) -> (N, C, h, w); regions of different images do not meet.

        Args:
            features: Blocks of the boxes of all images, images in order, as ``regions.pool_every`` gives them.
            boxes: Per image (n, 4), only counted.
            filter: (N, C, h, w) such as ``values.random``; none filters nothing.
            offset: (N,) added to the products with the filter.
        """
        counts = [len(own) for own in boxes]
        if sum(counts) != len(features):
            blocks = f"{len(features)} blocks and {sum(counts)} boxes"
            raise UsageError(f"generator.relate has {blocks}; give the boxes that the blocks were read with")
        z = features.flatten(1)
        tables = [theta @ phi.T for theta, phi in zip(self.theta(z).split(counts), self.phi(z).split(counts), strict=True)]
        if filter is not None:
            tables = [
                table * share.softmax(1) for table, share in zip(tables, _products(z, filter, offset, counts), strict=True)
            ]
        values = self.g(z).split(counts)
        added = torch.cat([table.softmax(1) @ own for table, own in zip(tables, values, strict=True)])
        return features + self.out(added).view_as(features)


def _products(z: Tensor, filter: Tensor, offset: Tensor | None, counts: list[int]) -> list[Tensor]:
    """Per image (n, n): every region's z with every region's filter."""
    offsets = filter.new_zeros(len(filter)) if offset is None else offset
    parts = zip(z.split(counts), filter.flatten(1).split(counts), offsets.split(counts), strict=True)
    return [own @ rows.T + added for own, rows, added in parts]
