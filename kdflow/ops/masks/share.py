"""Several masks as one weight of a squared error."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

from kdflow.functional.precision import single
from kdflow.kinds import Mask, of_axes
from kdflow.operation import op

ManyMasks = Annotated[Any, of_axes(("b", "m", "y", "x"), None)]
MaskWeights = Annotated[Any, of_axes(("b", "m"), None)]


@op("mask.share", no_grad=True)
def share(masks: ManyMasks, weights: MaskWeights, eps: Annotated[float, Field(gt=0)] = 1e-6) -> Mask:
    """``M_m^2 / sum_yx M_m``, averaged over the masks by their weights: (B, 1, H, W), without gradient.

    As a factor of a squared error it compares maps that every mask multiplies, each over its own size. Source: MasKD.

    Args:
        masks: (B, M, H, W) in 0..1.
        weights: (B, M), not negative; only their proportions count.
        eps: Least size of a mask, and least sum of the weights.
    """
    values, own = single(masks), single(weights)
    shares = own / own.sum(1, keepdim=True).clamp(min=eps) / values.sum((2, 3)).clamp(min=eps)
    return torch.einsum("bmhw,bm->bhw", values.square(), shares)[:, None]
