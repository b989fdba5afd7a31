"""All levels in one row."""

from __future__ import annotations

import torch

from kdflow.functional.axes import dim_of
from kdflow.kinds import AnyLevels, AnyTensor, Axes
from kdflow.operation import like, op


@op("transform.flatten", gives=like("values", joined=True), example={"values": "b r c"})
def flatten(values: AnyLevels, axes: Axes = ("b", "r", "c")) -> AnyTensor:
    """Dense places of all levels joined in order: list of (B, R_l, C) -> (B, sum R_l, C), and (B, R_l) -> (B, sum R_l).

    Args:
        values: Dense predictions, or one number per place, per level.
        axes: Filled in by the compiler.
    """
    return torch.cat(list(values), dim=dim_of("r", axes))
