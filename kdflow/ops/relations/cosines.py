"""Angles between the rows of two sets."""

from __future__ import annotations

from typing import Any

from kdflow.functional.precision import single
from kdflow.functional.relations import cosine_similarities
from kdflow.kinds import AnyTensor, of_axes
from kdflow.operation import op


@op("relation.cosines", gives=of_axes(("n", "m"), None))
def cosines(features: AnyTensor, others: AnyTensor | None = None) -> Any:
    """Cosine of every row with every row of ``others``: (N, M), in float32; a zero vector gives 0.

    Args:
        features: (N, C) rows.
        others: (M, C) rows, such as prototypes; none compares the rows with each other.
    """
    rows = single(features).flatten(1)
    return cosine_similarities(rows, rows if others is None else single(others).flatten(1))
