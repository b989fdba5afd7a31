"""The last layers of a deeper decoder, as many as the other one has."""

from __future__ import annotations

from kdflow.kinds import Layers
from kdflow.operation import like as kind_of
from kdflow.operation import op


@op("tap.last", gives=kind_of("features"))
def last(features: Layers, like: Layers) -> Layers:
    """The last layers of a stack, as many as another stack has; all of them where it has no more.

    Args:
        features: Per layer (B, Q, C), such as ``teacher.decoder.logits``.
        like: The stack that is counted, such as ``student.decoder.logits``.
    """
    return features[-len(like) :]
