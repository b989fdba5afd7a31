"""The last layers of a deeper decoder, as many as the other one has."""

from __future__ import annotations

from kdflow.kinds import AnyLayers
from kdflow.operation import like as kind_of
from kdflow.operation import op


@op("tap.last", gives=kind_of("features"), example={"features": "b q c", "like": "b q c"})
def last(features: AnyLayers, like: AnyLayers) -> AnyLayers:
    """The last layers of a stack, as many as another stack has; all of them where it has no more.

    Args:
        features: Values per layer, such as ``teacher.decoder.logits`` or ``teacher.decoder.self_attention``.
        like: The stack that is counted, such as ``student.decoder.logits``.
    """
    return features[-len(like) :]
