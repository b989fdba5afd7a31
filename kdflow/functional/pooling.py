"""Features of a region: RoIAlign blocks and plain averages, differentiable with respect to the maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdflow.functional.precision import in_full, single
from kdflow.functional.region_align import roi_align


def canonical_level(
    boxes: Tensor, strides: Sequence[int], size: float = 224.0, level: int = 4, eps: float = 1e-8, border: float = 0.0
) -> Tensor:
    """Entry of the pyramid that a box is read from: stride ``2^k`` with ``k = floor(level + log2(sqrt(area)/size + eps))``.

    Source: Lin et al., CVPR 2017, equation 1; k is kept within the strides that exist.

    Args:
        boxes: (N, 4) xyxy pixels.
        strides: Pixels per cell of each entry, doubling from one to the next.
        size: Side of a box that belongs to ``level``, pixels.
        level: Its k.
        eps: Keeps the logarithm finite.
        border: Added to width and height.

    Returns:
        (N,) int64 index into ``strides``.
    """
    finest = round(torch.log2(torch.tensor(float(strides[0]))).item())
    side = (boxes[:, 2:] - boxes[:, :2] + border).prod(dim=1).clamp(min=0).sqrt()
    k = torch.floor(level + torch.log2(side / size + eps))
    return (k - finest).clamp(0, len(strides) - 1).long()


def with_image_index(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes of all images as (N, 5) rows: image number, then xyxy."""
    numbered = [torch.cat([b.new_full((len(b), 1), i), b], dim=1) for i, b in enumerate(boxes)]
    return torch.cat(numbered)


def align_boxes(
    features: Sequence[Tensor],
    boxes: Sequence[Tensor],
    levels: Tensor,
    strides: Sequence[int],
    bins: int = 7,
    sampling: int = 2,
    aligned: bool = True,
) -> Tensor:
    """RoIAlign of every box on its own level.

    Args:
        features: Per level (B, C, H, W).
        boxes: Per image (n, 4) xyxy pixels of the padded input.
        levels: (N,) entry of ``features`` each box is read from, images joined in order.
        strides: Pixels per cell of each level.
        bins: Cells per side of a block.
        sampling: Sampling points per side of a cell; 0 adapts to the box.
        aligned: Half-pixel-correct sampling.

    Returns:
        (N, C, bins, bins) in float32 or finer, in the order of the boxes.
    """
    maps = [single(level) for level in features]
    rows = with_image_index(boxes).to(maps[0].dtype)
    counts = torch.stack([(levels == index).sum() for index in range(len(maps))]).tolist()
    here = levels.sort(stable=True).indices.split(counts)
    pooled = [
        roi_align(level, rows[own], bins, 1.0 / stride, sampling, aligned)
        for level, own, stride in zip(maps, here, strides, strict=True)
    ]
    blocks = maps[0].new_zeros((len(rows), maps[0].shape[1], bins, bins))
    return blocks.index_copy_(0, torch.cat(here), torch.cat(pooled).to(blocks.dtype))


@in_full
def average_in_boxes(features: Tensor, boxes: Sequence[Tensor], stride: float) -> Tensor:
    """Mean of the map over the cells that each box touches, first and last row and column included.

    Cells run from ``int(y1 / stride)`` to ``int(y2 / stride)``, those outside the map are left out; a box that touches
    no cell gives 0. Source: ODGK (hikvision-research/DAVAR-Lab-ML).

    Args:
        features: (B, C, H, W).
        boxes: Per image (n, 4) xyxy pixels.
        stride: Pixels per cell.

    Returns:
        (N, C) in float32 or finer under autocast, images joined in order.
    """
    vectors = []
    for image, own in zip(features, boxes, strict=True):
        cells = (own.to(features.dtype).abs() / stride).trunc()
        rows = _within(cells[:, 1], cells[:, 3], image.shape[-2])
        columns = _within(cells[:, 0], cells[:, 2], image.shape[-1])
        count = (rows.sum(1) * columns.sum(1)).clamp(min=1)
        summed = torch.einsum("nh,chw,nw->nc", rows, image, columns)
        vectors.append(summed / count[:, None])
    return torch.cat(vectors)


def _within(first: Tensor, last: Tensor, size: int) -> Tensor:
    """(n, size) 1 where first <= position <= last."""
    position = torch.arange(size, device=first.device, dtype=first.dtype)
    return ((position >= first[:, None]) & (position <= last[:, None])).to(first.dtype)
