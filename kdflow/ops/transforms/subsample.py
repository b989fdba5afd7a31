"""A smaller copy of a map or of images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.kinds import Map
from kdflow.operation import op


@op("transform.subsample", source="{features}[..., ::{factor}, ::{factor}]")
def subsample(features: Map, factor: Annotated[int, Field(ge=2)] = 2) -> Map:
    """Every ``factor``-th row and column, from the first: (B, C, H, W) -> (B, C, ceil(H / factor), ceil(W / factor)).

    For even sides this is nearest-neighbour resizing to the half.

    Args:
        features: (B, C, H, W) maps or normalised images.
        factor: Rows and columns per one that is kept.
    """
    return features[..., ::factor, ::factor]
