"""The closest partner of one's own class."""

from __future__ import annotations

from kdflow.functional.relations import best_of_class
from kdflow.kinds import AnyTensor, RowValues
from kdflow.operation import op


@op("relation.best", no_grad=True)
def best(features: AnyTensor, row_labels: RowValues, column_labels: AnyTensor) -> RowValues:
    """Largest similarity of each row among the columns of its class, 0 where its class has none: (N,).

    Args:
        features: (N, M) similarities.
        row_labels: (N,) classes of the rows.
        column_labels: (M,) classes of the columns.
    """
    return best_of_class(features, row_labels, column_labels)
