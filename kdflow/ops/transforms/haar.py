"""Maps as bands of frequencies."""

from __future__ import annotations

from typing import Any

import torch

from kdflow.functional import wavelets
from kdflow.kinds import MAP, Map
from kdflow.operation import op


@op("transform.haar", gives={"low": MAP, "details": MAP, "joined": MAP})
def haar(features: Map) -> dict[str, Any]:
    """One level of the orthonormal Haar transform, half as high and wide; odd sides get zeros at the end first.

    Outputs: ``low`` (B, C, h, w), the input of the next level; ``details`` (B, 3C, h, w), the differences of rows, then of
    columns, then of both; ``joined`` (B, C, h, w), the sum of these three. Gradient flows.

    Args:
        features: (B, C, H, W) maps.
    """
    low, *details = wavelets.haar(features)
    return {"low": low, "details": torch.cat(details, dim=1), "joined": details[0] + details[1] + details[2]}
