"""The cell that a box was predicted by."""

from __future__ import annotations

from typing import Any

import torch

from kdflow.functional import sources
from kdflow.kinds import ROW_VALUES, Boxes, Labels, Priors, Pyramid
from kdflow.operation import op


@op("regions.trace", gives=dict.fromkeys(("image", "cell", "anchor", "found"), ROW_VALUES), no_grad=True)
def trace(boxes: Boxes, proposals: Boxes, places: Labels, priors: Priors, like: Pyramid) -> dict[str, Any]:
    """Source of each box that a sampler took from the proposals: ``image``, ``cell``, ``anchor`` and whether it was ``found``.

    All are (N,), images joined in order. Cells are counted over all levels, row by row; a box that is no proposal, such as
    ground truth, has cell and anchor -1 and found 0. Source: LutingWang/HEAD.

    Args:
        boxes: Per image (n, 4), such as ``sampled.boxes``.
        proposals: Per image (m, 4), ``boxes`` of ``regions.propose``.
        places: Per image (m,), its ``places``.
        priors: Per level (R, 4), only counted: with the maps they say how many anchors a cell has.
        like: Maps of these levels, only measured.
    """
    cells = sum(level.shape[-2] * level.shape[-1] for level in like)
    found = sources.trace(boxes, proposals, places, max(1, sum(len(level) for level in priors) // cells))
    return {**found._asdict(), "found": (found.cell >= 0).to(torch.float32)}
