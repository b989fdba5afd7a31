"""All levels in one row."""

from __future__ import annotations

import torch

from kdflow.kinds import Cells, Dense
from kdflow.operation import op


@op("transform.flatten")
def flatten(values: Dense) -> Cells:
    """Levels joined in order: list of (B, R_l, C) -> (B, sum R_l, C).

    Args:
        values: Dense predictions per level.
    """
    return torch.cat(list(values), dim=1)
