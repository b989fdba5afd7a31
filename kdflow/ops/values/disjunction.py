"""Either of two selections."""

from __future__ import annotations

from kdflow.functional.checks import same_shape
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("values.or", gives=like("values"), no_grad=True)
def disjunction(values: AnyTensor, other: AnyTensor) -> AnyTensor:
    """True where one of the two, or both, are above 0.

    Args:
        values: Booleans, or numbers that count as true above 0.
        other: The same shape.
    """
    same_shape(values, other)
    return (values > 0) | (other > 0)
