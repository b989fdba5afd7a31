"""Channels divided among attention heads."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from kdflow.errors import UsageError
from kdflow.kinds import Cells, of_axes
from kdflow.operation import op

HeadValues = Annotated[Any, of_axes(("b", "h", "k", "c"), None)]


@op("transform.heads", example={"heads": 2})
def heads(features: Cells, heads: Annotated[int, Field(gt=0)] = 8) -> HeadValues:
    """(B, K, heads * C) -> (B, heads, K, C), axes b, h, k, c.

    Args:
        features: Places or tokens with channels last.
        heads: Number of heads.
    """
    if features.shape[-1] % heads:
        raise UsageError(f"{features.shape[-1]} channels cannot be divided among {heads} heads")
    return features.reshape(*features.shape[:2], heads, -1).transpose(1, 2)
