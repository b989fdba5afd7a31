"""How alike several masks are."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from kdflow.functional.precision import single
from kdflow.kinds import Scalar, of_axes
from kdflow.operation import op

ManyMasks = Annotated[Any, of_axes(("b", "m", "y", "x"), None)]
EPS = 2e-12


@op("stats.dice")
def dice(masks: ManyMasks) -> Scalar:
    """Mean over images and ordered pairs of masks of ``2 <m, u> / (<m, m> + <u, u>)``; 0 for a single mask. Gradient flows.

    Source: MasKD, its diversity loss.

    Args:
        masks: (B, M, H, W).
    """
    flat = single(masks).flatten(2)
    inner = torch.einsum("bms,bns->bmn", flat, flat)
    own = inner.diagonal(dim1=1, dim2=2)
    alike = 2 * inner / (own[:, :, None] + own[:, None] + EPS)
    count = flat.shape[1]
    pairs = 1 - torch.eye(count, dtype=alike.dtype, device=alike.device)
    return (alike * pairs).sum() / max(len(flat) * count * (count - 1), 1)
