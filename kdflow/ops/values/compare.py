"""Comparison with a number or with other values."""

from __future__ import annotations

import operator
from typing import Literal

from kdflow.functional.checks import same_shape
from kdflow.kinds import AnyTensor
from kdflow.operation import like, op

Relation = Literal["==", "!=", "<", "<=", ">", ">="]
_RELATIONS = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}


@op("values.compare", gives=like("values"), no_grad=True)
def compare(values: AnyTensor, other: AnyTensor | None = None, relation: Relation = ">=", to: float = 0.0) -> AnyTensor:
    """True where ``values RELATION to``, or ``values RELATION other + to`` when ``other`` is given.

    Args:
        values: Any numbers.
        other: Numbers of the same shape to compare with.
        relation: One of ``==  !=  <  <=  >  >=``.
        to: Bound, or margin on top of ``other``.
    """
    if other is None:
        return _RELATIONS[relation](values, to)
    same_shape(values, other)
    return _RELATIONS[relation](values, other + to if to else other)
