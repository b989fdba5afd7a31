"""Where a box came from: the cell of the map and the anchor that predicted it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Sources(NamedTuple):
    """Sources of rows, images joined in order.

    Attributes:
        image: (N,) int64 number of the image.
        cell: (N,) int64 cell, counted over all levels row by row, finest level first; -1 where there is none.
        anchor: (N,) int64 number of the anchor in its cell; -1 where there is none.
    """

    image: Tensor
    cell: Tensor
    anchor: Tensor


def trace(boxes: Sequence[Tensor], proposals: Sequence[Tensor], places: Sequence[Tensor], anchors: int) -> Sources:
    """Sources of boxes that were drawn from proposals, other boxes (ground truth) among them.

    A sampler hands boxes on as they are, so a box is traced by its coordinates. Of equal proposals the better one counts.

    Args:
        boxes: Per image (n, 4).
        proposals: Per image (m, 4), best first.
        places: Per image (m,) number of the dense place each proposal comes from; order level, row, column, anchor.
        anchors: Anchors per cell.
    """
    found = [_first_equal(own, offered, place) for own, offered, place in zip(boxes, proposals, places, strict=True)]
    image = torch.cat([torch.full_like(place, i) for i, place in enumerate(found)])
    place = torch.cat(found)
    traced = place >= 0
    nowhere = torch.full_like(place, -1)
    return Sources(image, torch.where(traced, place // anchors, nowhere), torch.where(traced, place % anchors, nowhere))


def _first_equal(boxes: Tensor, proposals: Tensor, places: Tensor) -> Tensor:
    """(n,) place of the first proposal with these coordinates, -1 for none."""
    if len(proposals) == 0:
        return torch.full((len(boxes),), -1, dtype=torch.long, device=boxes.device)
    equal = (boxes[:, None] == proposals[None]).all(-1)
    first = places.long()[equal.to(torch.uint8).argmax(1)]
    return torch.where(equal.any(1), first, torch.full_like(first, -1))


def read_cells(features: Sequence[Tensor], image: Tensor, cell: Tensor) -> Tensor:
    """Features of single cells; gradient flows to these cells only.

    Args:
        features: Per level (B, C, H, W).
        image: (N,) image of each row.
        cell: (N,) cell, as in :class:`Sources`.

    Returns:
        (N, C); rows without a cell are 0.
    """
    rows = torch.cat([level.flatten(2) for level in features], dim=2)[image.long(), :, cell.long().clamp(min=0)]
    return rows * (cell >= 0).to(rows.dtype)[:, None]
