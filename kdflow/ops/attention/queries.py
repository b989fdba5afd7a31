"""Where a transformer's queries look like the map."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from kdflow.errors import UsageError
from kdflow.functional.attention import floored_over_maximum, query_map
from kdflow.functional.precision import single
from kdflow.kinds import Layers, LayerValues, Masks, Pyramid
from kdflow.operation import op


@op("attention.queries", no_grad=True)
def queries(
    features: Pyramid,
    queries: Layers,
    weights: LayerValues,
    floor: Annotated[float, Field(gt=0)] = 0.01,
    join: Literal["sum_of_squares", "mean"] = "sum_of_squares",
) -> Masks:
    """Attention of weighted queries on every level, (B, 1, H, W), made per decoder layer and then joined.

    One layer's mask is ``sum_e weight_e * cos(query_e, F(y, x))``, raised to at least ``floor``, over its largest value
    in the image. ``sum_of_squares`` is the factor of a squared error whose difference each layer's mask multiplies, all
    layers added; ``mean`` averages the masks. Source: DETRDistill (arXiv 2211.10156), target-aware feature term.

    Args:
        features: Maps per level, (B, C, H, W).
        queries: Per layer (B, Q, C) states of the width of the maps.
        weights: Per layer (B, Q); may be negative.
        floor: Smallest value before the division.
        join: How layers become one mask.
    """
    widths = features[0].shape[1], queries[0].shape[-1]
    if widths[0] != widths[1]:
        raise UsageError(f"the maps have {widths[0]} channels and the queries {widths[1]}; put adapter.linear before")
    joined = []
    for level in features:
        masks = torch.stack(
            [
                floored_over_maximum(query_map(single(level), single(q), single(w)), floor)
                for q, w in zip(queries, weights, strict=True)
            ]
        )
        joined.append(masks.square().sum(0) if join == "sum_of_squares" else masks.mean(0))
    return joined
