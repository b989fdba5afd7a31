"""What chosen queries look at."""

from __future__ import annotations

import torch

from kdflow.functional.precision import single
from kdflow.kinds import Attention, CellValues, TokenValues
from kdflow.operation import op


@op("attention.seen", no_grad=True)
def seen(attention: Attention, queries: TokenValues) -> CellValues:
    """The largest attention (mean of heads) of a chosen query to a place, over the image's largest: (B, K) in 0..1.

    An image without a chosen query gives zeros. ``mask.cells`` makes it a mask. Source: QSKD (arXiv 2409.06443), whose mask is
    read here from the cross-attention.

    Args:
        attention: (B, heads, Q, K) weights of one layer, such as ``teacher.decoder.cross_attention[-1]``.
        queries: (B, Q) above 0 for the chosen ones.
    """
    strength = single(attention).mean(1) * (queries > 0)[..., None]
    largest = strength.amax(1)
    top = largest.amax(1, keepdim=True)
    return torch.where(top > 0, largest / torch.where(top > 0, top, 1.0), 0.0)
