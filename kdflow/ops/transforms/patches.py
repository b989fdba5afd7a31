"""Maps cut into pieces."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch.nn import functional

from kdflow.kinds import Map
from kdflow.operation import op


@op("transform.patches")
def patches(features: Map, size: Annotated[int, Field(ge=2)] = 4) -> Map:
    """Patches of ``size`` x ``size`` cells, each a channel of its own: (B, C, H, W) -> (B, C * h * w, size, size).

    Sides that are no multiple get zeros at the end first; h and w count the patches. Channel by channel, then row by row.

    Args:
        features: (B, C, H, W) maps.
        size: Side of a patch, cells.
    """
    height, width = features.shape[-2:]
    even = functional.pad(features, (0, -width % size, 0, -height % size))
    cut = even.unflatten(-1, (-1, size)).unflatten(-3, (-1, size))  # b c h y w x
    return cut.transpose(3, 4).flatten(1, 3)
