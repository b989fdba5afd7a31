"""Rows of paired predictions."""

from __future__ import annotations

from typing import Any, Literal

import torch

from kdflow.errors import UsageError
from kdflow.kinds import Layers, Pairs, of_axes
from kdflow.operation import op


@op("matching.take", gives=of_axes(("n", "c"), "layers"))
def take(features: Layers, pairs: Pairs, side: Literal["student", "teacher"] = "student") -> Any:
    """The paired queries of one model, images joined in order: per layer (N, C). Row n of both sides is one pair.

    Args:
        features: Per layer (B, Q, C): logits, boxes or states.
        pairs: Per layer and image (student index, teacher index).
        side: Which index of the pairs to follow; pairs of queries with ground truth (``match.indices``) hold the
            queries at ``student``.
    """
    if len(pairs) != len(features):
        raise UsageError(f"there are {len(features)} layers of values and {len(pairs)} layers of pairs")
    which = 0 if side == "student" else 1
    return [
        torch.cat([image[pair[which].to(image.device)] for image, pair in zip(layer, images, strict=True)])
        for layer, images in zip(features, pairs, strict=True)
    ]
