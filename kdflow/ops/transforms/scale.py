"""Values times weights."""

from __future__ import annotations

from kdflow.errors import UsageError
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("transform.scale", gives=like("features"))
def scale(features: AnyTensor, weights: AnyTensor) -> AnyTensor:
    """``features * weights``, with one weight per entry of the leading axes (rows, queries, places), in float32.

    Unlike ``factors`` of a term, which weigh a loss, this scales what is compared. Gradient flows to both.

    Args:
        features: Any tensor, such as (N, C) rows or an (N, M) table.
        weights: A tensor of its leading axes, such as (N,).
    """
    if features.shape[: weights.dim()] != weights.shape:
        shapes = f"weights are {tuple(weights.shape)}, values {tuple(features.shape)}"
        raise UsageError(f"{shapes}; transform.scale needs one weight per entry of the leading axes")
    return single(features) * single(weights).reshape(*weights.shape, *[1] * (features.dim() - weights.dim()))
