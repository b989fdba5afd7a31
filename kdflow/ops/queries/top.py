"""The surest predictions of a decoder."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

from kdflow.functional.precision import single
from kdflow.kinds import TOKEN_VALUES, Tokens
from kdflow.operation import op


@op("queries.top", gives={"scores": TOKEN_VALUES, "index": TOKEN_VALUES, "labels": TOKEN_VALUES}, no_grad=True)
def top(logits: Tokens, k: Annotated[int, Field(gt=0)] = 100) -> dict[str, Any]:
    """The ``k`` largest (query, class) scores of each image: sigmoid ``scores``, query ``index`` and class ``labels``.

    A query may occur more than once, with different classes. All of them are (B, k), largest first; fewer where there
    are fewer entries.

    Args:
        logits: (B, Q, C) sigmoid logits.
        k: Entries per image.
    """
    classes = logits.shape[-1]
    flat = torch.sigmoid(single(logits)).flatten(1)
    scores, entries = flat.topk(min(k, flat.shape[1]), dim=1)
    return {"scores": scores, "index": entries.div(classes, rounding_mode="floor"), "labels": entries % classes}
