"""Zero mean and unit deviation per channel."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional import statistics
from kdflow.functional.precision import single
from kdflow.kinds import Map
from kdflow.operation import op


@op("transform.standardize")
def standardize(features: Map, eps: Annotated[float, Field(ge=0)] = 1e-6) -> Map:
    """``(F - mean) / (std + eps)`` per channel over images and places together, in float32.

    The deviation divides by n-1; a constant channel and a single sample give 0. Gradient flows through both moments.
    Source: PKD (arXiv 2207.02039), mmrazor ``pkd_loss.py``.

    Args:
        features: (B, C, H, W) maps.
        eps: Added to the deviation, not to the variance.
    """
    return statistics.standardize(single(features), eps=eps)
