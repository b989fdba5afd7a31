"""The mean and deviation of another map."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional import statistics
from kdflow.functional.precision import single
from kdflow.kinds import Map
from kdflow.operation import op


@op("transform.match_statistics")
def match_statistics(features: Map, like: Map, eps: Annotated[float, Field(ge=0)] = 1e-6) -> Map:
    """Per channel over images and places: ``(F - mean F) / (std F + eps) * std like + mean like``, in float32.

    Deviations divide by n-1. With a single sample per channel the result is the value of ``like``. Gradient flows
    through the moments of ``features``. Source: CrossKD (arXiv 2306.11369), ``align_scale``.

    Args:
        features: (B, C, H, W) maps.
        like: (B, C, H, W) maps with the wanted moments.
        eps: Added to the deviation of ``features``.
    """
    return statistics.match_statistics(single(features), single(like), eps=eps)
