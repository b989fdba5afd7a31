"""What every row is to every other: angles, distances, overlaps."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from kdflow.errors import UsageError
from kdflow.functional import boxes as bx
from kdflow.functional.precision import single
from kdflow.functional.relations import cosine_similarities, off_diagonal, over_positive_mean, pairwise_distances
from kdflow.kinds import AnyTensor, of_axes
from kdflow.operation import op

TABLE = of_axes(("n", "m"), None)
Measure = Literal["cosine", "euclidean", "iou"]


@op("relation.table", gives={"values": TABLE, "pairs": TABLE})
def table(
    features: AnyTensor,
    others: AnyTensor | None = None,
    measure: Measure = "cosine",
    normalise: Literal["none", "mean"] = "none",
    minimum: Annotated[int, Field(ge=0)] = 0,
    eps: Annotated[float, Field(gt=0)] = 1e-12,
) -> dict[str, Any]:
    """``values`` (N, M) of every row with every row of ``others``, in float32, and the ``pairs`` (N, M) that tell rows apart.

    Rows of more than one axis are flattened; all images of the batch take part. ``pairs`` is 1, but 0 on the diagonal
    where rows are compared with each other. Gradient flows through values and mean. Sources: ODGK (``cosine``),
    relational distillation (Park et al., CVPR 2019) as GID uses it (``euclidean`` over its mean).

    Args:
        features: (N, C) rows or (N, C, h, w) blocks.
        others: (M, C) rows, such as prototypes; none compares the rows with each other.
        measure: ``cosine`` (0 for a zero vector), ``euclidean`` distance, or ``iou`` of xyxy boxes.
        normalise: ``mean`` divides by the mean of the values above 0, so that scaling all rows changes no distance.
        minimum: With fewer rows than this no pair counts.
        eps: Lower bound of a squared distance.
    """
    rows = single(features).flatten(1)
    columns = rows if others is None else single(others).flatten(1)
    values = _measured(rows, columns, measure, eps, same=others is None)
    pairs = off_diagonal(values) if others is None else torch.ones_like(values)
    pairs = pairs * float(len(rows) >= minimum)
    return {"values": over_positive_mean(values) if normalise == "mean" else values, "pairs": pairs}


def _measured(rows: Tensor, columns: Tensor, measure: Measure, eps: float, *, same: bool) -> Tensor:
    if measure == "cosine":
        return cosine_similarities(rows, columns)
    if measure == "euclidean":
        return pairwise_distances(rows, eps, None if same else columns)
    if rows.shape[1] != 4:
        raise UsageError(f"measure: iou compares boxes of 4 numbers, and the rows have {rows.shape[1]}")
    return bx.pairwise_iou(rows, columns)
