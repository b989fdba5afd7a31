"""Boxes that deltas stand for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kdflow.functional.box_forms import decode_deltas
from kdflow.functional.precision import single
from kdflow.kinds import Dense, Priors
from kdflow.operation import op

Positive = Annotated[float, Field(gt=0)]


@op("transform.decode")
def decode(
    deltas: Dense, priors: Priors, weights: tuple[Positive, Positive, Positive, Positive] = (1, 1, 1, 1)
) -> Dense:
    """Deltas (dx, dy, dw, dh) of anchors as boxes (B, R, 4), xyxy in the anchors' pixels, not clipped.

    Args:
        deltas: Per level (B, R, 4).
        priors: Per level (R, 4) xyxy anchors.
        weights: Divisors of the four numbers; RetinaNet and RPN use ones.
    """
    return [decode_deltas(single(d), p, weights) for d, p in zip(deltas, priors, strict=True)]
