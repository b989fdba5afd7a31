"""Queries by number."""

from __future__ import annotations

from kdflow.kinds import Tokens, TokenValues
from kdflow.operation import op


@op("queries.take")
def take(features: Tokens, index: TokenValues) -> Tokens:
    """The queries numbered ``index`` of each image: (B, Q, C) and (B, k) give (B, k, C).

    Args:
        features: States, logits or boxes of all queries.
        index: Whole numbers below Q; a query may be asked for repeatedly.
    """
    return features.gather(1, index.long()[..., None].expand(-1, -1, features.shape[-1]))
