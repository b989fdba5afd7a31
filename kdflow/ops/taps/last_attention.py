"""The attention of the last layers of a deeper decoder, as many as the other one has."""

from __future__ import annotations

from kdflow.kinds import Attentions
from kdflow.operation import like as kind_of
from kdflow.operation import op


@op("tap.last_attention", gives=kind_of("attention"))
def last_attention(attention: Attentions, like: Attentions) -> Attentions:
    """The attention of the last layers, as many as another stack has; all of them where it has no more.

    Args:
        attention: Per layer (B, h, Q, K), such as ``teacher.decoder.self_attention``.
        like: The stack that is counted, such as ``student.decoder.self_attention``.
    """
    return attention[-len(like) :]
