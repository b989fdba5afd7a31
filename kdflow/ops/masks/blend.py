"""Several masks laid over a map."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from kdflow.kinds import Map, of_axes
from kdflow.operation import op

ManyMasks = Annotated[Any, of_axes(("b", "m", "y", "x"), None)]
MaskWeights = Annotated[Any, of_axes(("b", "m"), None)]


@op("mask.blend")
def blend(features: Map, masks: ManyMasks, weights: MaskWeights) -> Map:
    """``sum_m weight_m (M_m * F)``, the map as the masks let it through. Gradient flows to all three.

    Args:
        features: (B, C, H, W) maps.
        masks: (B, M, H, W).
        weights: (B, M).
    """
    return features * torch.einsum("bmhw,bm->bhw", masks, weights)[:, None]
