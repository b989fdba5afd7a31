"""The class with the largest score."""

from __future__ import annotations

from kdflow.functional.axes import dim_of
from kdflow.kinds import AnyTensor, Axes
from kdflow.operation import like, op


@op("values.best_class", gives=like("logits", drop="c"), no_grad=True)
def best_class(logits: AnyTensor, axes: Axes = ()) -> AnyTensor:
    """Index of the largest logit of every row, place or query; compare it with labels to select where a model is right.

    Args:
        logits: Class scores with an axis c.
        axes: Filled in by the compiler.
    """
    return logits.argmax(dim_of("c", axes))
