"""A value without its history."""

from __future__ import annotations

from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("transform.detach", gives=like("features"), no_grad=True)
def detach(features: AnyTensor) -> AnyTensor:
    """The same numbers; no gradient passes.

    Args:
        features: Any tensor.
    """
    return features.detach()
