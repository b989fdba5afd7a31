"""Two weights as one, or values times weights."""

from __future__ import annotations

from kdflow.errors import UsageError
from kdflow.functional.precision import single
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("values.product", gives=like("values"))
def product(values: AnyTensor, other: AnyTensor) -> AnyTensor:
    """``values * other``, entry by entry, in float32; booleans count as 0 and 1. Gradient flows to both.

    Unlike ``factors`` of a term, which weigh a loss, this changes what is compared.

    Args:
        values: Numbers or booleans, such as one score per place or an (N, M) table.
        other: The same shape, or only the leading axes (rows, queries, places): (N,) weighs all of a row alike.
    """
    if values.shape[: other.dim()] != other.shape:
        shapes = f"values are {tuple(values.shape)}, the other {tuple(other.shape)}"
        raise UsageError(f"{shapes}; values.product needs equal shapes, or one number per entry of the leading axes")
    return single(values) * single(other).reshape(*other.shape, *[1] * (values.dim() - other.dim()))
