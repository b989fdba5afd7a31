"""All levels of one number per place in one row."""

from __future__ import annotations

import torch

from kdflow.kinds import CellValues, DenseValues
from kdflow.operation import op


@op("transform.flatten_values")
def flatten_values(values: DenseValues) -> CellValues:
    """Levels joined in order: list of (B, R_l) -> (B, sum R_l).

    Args:
        values: One number per dense place and level.
    """
    return torch.cat(list(values), dim=1)
