"""One layer beside every layer of another decoder."""

from __future__ import annotations

from kdflow.kinds import Layers, Tokens
from kdflow.operation import op


@op("tap.repeat")
def repeat(features: Tokens, like: Layers) -> Layers:
    """The same values for every layer of ``like``: the teacher's last layer for all of the student's.

    Args:
        features: One layer, such as ``teacher.decoder.logits[-1]``.
        like: A stack whose number of layers is taken.
    """
    return [features for _ in like]
