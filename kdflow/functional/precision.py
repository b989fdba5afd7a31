"""Numbers that need at least single precision."""

from __future__ import annotations

import torch
from torch import Tensor


def single(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it was coarser (half, bfloat16, integer, bool); float64 stays."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
