"""Rectified values."""

from __future__ import annotations

from torch.nn import functional

from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("transform.relu", gives=like("features"))
def relu(features: AnyTensor) -> AnyTensor:
    """``max(F, 0)``, never in place.

    Args:
        features: Any tensor.
    """
    return functional.relu(features)
