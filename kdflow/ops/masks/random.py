"""A mask by chance."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from kdflow.kinds import Masks, Pyramid
from kdflow.operation import op


@op("mask.random", no_grad=True, stochastic=True)
def random(like: Pyramid, drop: Annotated[float, Field(ge=0, le=1)] = 0.5) -> Masks:
    """0 at each place with probability ``drop``, else 1: (B, 1, H, W) per level, anew every step, all channels alike.

    Source: MGD (arXiv 2205.01529), ``mgd.py``.

    Args:
        like: Maps per level whose sizes are taken.
        drop: Share of the places that are dropped.
    """
    return [(torch.rand_like(level[:, :1], dtype=torch.float32) <= 1 - drop).float() for level in like]
