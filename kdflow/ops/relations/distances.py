"""Distances between the rows of one model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from kdflow.functional.precision import single
from kdflow.functional.relations import off_diagonal, over_positive_mean, pairwise_distances
from kdflow.kinds import AnyTensor, of_axes
from kdflow.operation import op

TABLE = of_axes(("n", "m"), None)


@op("relation.distances", gives={"distances": TABLE, "pairs": TABLE})
def distances(
    features: AnyTensor,
    normalise: Literal["mean", "none"] = "mean",
    minimum: Annotated[int, Field(ge=0)] = 0,
    eps: Annotated[float, Field(gt=0)] = 1e-12,
) -> dict[str, Any]:
    """Euclidean distances (N, N) between rows, in float32, and the ``pairs`` that count: 1 off the diagonal.

    Rows of more than one axis are flattened; all images of the batch take part. Gradient flows through distances and
    mean. Source: relational distillation (Park et al., CVPR 2019), as GID uses it.

    Args:
        features: (N, C) rows or (N, C, h, w) blocks.
        normalise: ``mean`` divides by the mean of the distances above 0, so that scaling all rows changes nothing.
        minimum: With fewer rows than this no pair counts.
        eps: Lower bound of a squared distance.
    """
    table = pairwise_distances(single(features).flatten(1), eps)
    pairs = off_diagonal(table) * float(len(table) >= minimum)
    return {"distances": over_positive_mean(table) if normalise == "mean" else table, "pairs": pairs}
