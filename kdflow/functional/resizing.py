"""Maps at another size."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional


def resize_to(features: Tensor, size: tuple[int, int], mode: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
    """(B, C, H, W) at ``size``; the tensor itself where the sizes agree. Bilinear uses half-pixel centres."""
    if tuple(features.shape[-2:]) == size:
        return features
    if mode == "nearest":
        return functional.interpolate(features, size=size, mode="nearest")
    return functional.interpolate(features, size=size, mode="bilinear", align_corners=False)
