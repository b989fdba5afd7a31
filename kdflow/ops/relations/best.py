"""The closest partner of one's own class."""

from __future__ import annotations

from typing import Annotated, Any

from kdflow.functional.relations import best_of_class
from kdflow.kinds import RowValues, of_axes
from kdflow.operation import op

Table = Annotated[Any, of_axes(("n", "m"), None)]
Columns = Annotated[Any, of_axes(("m",), None)]


@op("relation.best", no_grad=True, example={"features": "n c", "column_labels": "c"})
def best(features: Table, row_labels: RowValues, column_labels: Columns) -> RowValues:
    """Largest similarity of each row among the columns of its class, 0 where its class has none: (N,).

    Args:
        features: (N, M) similarities.
        row_labels: (N,) classes of the rows.
        column_labels: (M,) classes of the columns.
    """
    return best_of_class(features, row_labels, column_labels)
