"""The size of another map."""

from __future__ import annotations

from typing import Literal

from kdflow.functional.resizing import resize_to
from kdflow.kinds import Map
from kdflow.operation import op


@op("transform.resize")
def resize(features: Map, like: Map, mode: Literal["bilinear", "nearest"] = "bilinear") -> Map:
    """``features`` at the height and width of ``like``; unchanged where the sizes agree.

    Bilinear without corner alignment (cell centres at half pixels), no antialiasing.

    Args:
        features: (B, C, H, W) maps.
        like: Maps whose size is taken.
        mode: How values between cells are found.
    """
    return resize_to(features, (like.shape[-2], like.shape[-1]), mode)
