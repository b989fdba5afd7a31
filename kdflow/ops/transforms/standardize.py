"""A mean and deviation per channel: 0 and 1, or those of another map."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional import statistics
from kdflow.functional.precision import single
from kdflow.kinds import Map
from kdflow.operation import op


@op("transform.standardize")
def standardize(features: Map, like: Map | None = None, eps: Annotated[float, Field(ge=0)] = 1e-6) -> Map:
    """``(F - mean) / (std + eps)`` per channel over images and places together, in float32; then ``* std + mean`` of ``like``.

    The deviation divides by n-1; a constant channel and a single sample give 0 (with ``like``, its mean). Gradient flows
    through all moments. Sources: PKD (arXiv 2207.02039), mmrazor ``pkd_loss.py``; with ``like`` CrossKD (arXiv
    2306.11369), ``align_scale``.

    Args:
        features: (B, C, H, W) maps.
        like: (B, C, H, W) maps whose mean and deviation are taken; none leaves mean 0 and deviation 1.
        eps: Added to the deviation of ``features``, not to the variance.
    """
    if like is None:
        return statistics.standardize(single(features), eps=eps)
    return statistics.match_statistics(single(features), single(like), eps=eps)
