"""The rest of a selection."""

from __future__ import annotations

from kdflow.kinds import AnyTensor
from kdflow.operation import like, op


@op("values.not", gives=like("values"), no_grad=True)
def negation(values: AnyTensor) -> AnyTensor:
    """True where the value is not above 0.

    Args:
        values: Booleans, or numbers that count as true above 0.
    """
    return ~(values > 0)
