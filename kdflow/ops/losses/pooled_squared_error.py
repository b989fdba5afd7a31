"""Squared difference at several coarsenesses."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional

from kdflow.functional.checks import same_shape
from kdflow.kinds import Map, Scalar
from kdflow.operation import op

Size = Annotated[int, Field(gt=0)]


@op("loss.pooled_squared_error", zero_at_equality=True)
def pooled_squared_error(student: Map, teacher: Map, pools: tuple[Size, ...] = (4, 2, 1)) -> Scalar:
    """Mean squared difference of the maps and of their averages on coarse grids, weighted 1, 1/2, 1/4, ..., as one number.

    A grid that is not smaller than the height is left out, and its weight goes to the next one; the sum is divided by
    the weights used. Source: ReviewKD (arXiv 2104.09044), hierarchical context loss, ``kd_trans.py``.

    Args:
        student: (B, C, H, W) maps.
        teacher: Maps of the same shape.
        pools: Sides of the coarse grids, in the order of their weights.
    """
    same_shape(student, teacher)
    parts, weights = [(student - teacher).square().mean()], [1.0]
    for side in (s for s in pools if s < student.shape[-2]):
        ours, theirs = (functional.adaptive_avg_pool2d(m, side) for m in (student, teacher))
        parts.append((ours - theirs).square().mean())
        weights.append(weights[-1] / 2)
    return (torch.stack(parts) * parts[0].new_tensor(weights)).sum() / sum(weights)
