"""One layer beside every layer of another decoder."""

from __future__ import annotations

from kdflow.kinds import AnyLayers, AnyTensor
from kdflow.operation import like as kind_of
from kdflow.operation import op


@op("tap.repeat", gives=kind_of("features", stack="layers"), example={"features": "b q c", "like": "b q c"})
def repeat(features: AnyTensor, like: AnyLayers) -> AnyLayers:
    """The same values for every layer of ``like``: the teacher's last layer for all of the student's.

    Args:
        features: One layer, such as ``teacher.decoder.logits[-1]``.
        like: A stack whose number of layers is taken.
    """
    return [features for _ in like]
