"""Which object a query looks at."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from kdflow.functional import boxes as bx
from kdflow.functional.precision import single
from kdflow.kinds import TOKEN_VALUES, Boxes, Pairs, Tokens
from kdflow.operation import op

NONE = -2.0


@op(
    "queries.groups",
    gives={"objects": TOKEN_VALUES, "fit": TOKEN_VALUES, "chosen": TOKEN_VALUES},
    defaults={"targets": "targets.boxes"},
    no_grad=True,
)
def groups(
    boxes: Tokens,
    pairs: Pairs,
    targets: Boxes,
    giou: Annotated[float, Field(ge=-1, le=1)] = 0.5,
    most: Annotated[int, Field(gt=0)] = 10,
) -> dict[str, Any]:
    """Queries grouped by the object that their box fits best: those matched with it, and those whose GIoU reaches a bound.

    ``objects`` (B, Q) is the number of the object within its image, -1 for a query of no group; ``fit`` (B, Q) the GIoU with it,
    -2 for those; ``chosen`` (B, Q) is 1 for the queries of a group. A group keeps its ``most`` best members, matched ones first.
    Source: QSKD (arXiv 2409.06443), whose hard negatives are queries that look at an object without being matched.

    Args:
        boxes: (B, Q, 4) xyxy pixels of the padded input.
        pairs: Matched (query, object) of every layer and image; the last layer counts.
        targets: Per image (n, 4) in the same pixels.
        giou: The bound; 1 leaves the matched queries, -1 takes all.
        most: Queries per object.
    """
    found = [_of_image(*image, giou, most) for image in zip(single(boxes), pairs[-1], targets, strict=True)]
    objects, fit = (torch.stack([image[k] for image in found]) for k in (0, 1))
    return {"objects": objects, "fit": fit, "chosen": (objects >= 0).to(fit.dtype)}


def _of_image(
    boxes: Tensor, pairs: tuple[Tensor, Tensor], targets: Tensor, giou: float, most: int
) -> tuple[Tensor, Tensor]:
    """(Q,) objects and fits."""
    if len(targets) == 0:
        return boxes.new_full((len(boxes),), -1, dtype=torch.long), boxes.new_full((len(boxes),), NONE)
    queries, numbers = (index.to(boxes.device) for index in pairs)
    table = bx.giou(boxes[:, None], targets.to(boxes.dtype)[None])
    best, owner = table.max(1)
    owner = owner.where(best >= giou, -1).index_copy(0, queries, numbers)
    matched = torch.zeros_like(best).index_fill(0, queries, 1.0)
    rank = matched * 4 + table.gather(1, owner.clamp(min=0)[:, None]).squeeze(1)  # above any GIoU
    shown = torch.where(owner[:, None] == torch.arange(len(targets), device=boxes.device), rank[:, None], -torch.inf)
    places = torch.argsort(shown, dim=0, descending=True, stable=True).argsort(0)
    kept = (owner >= 0) & (places.gather(1, owner.clamp(min=0)[:, None]).squeeze(1) < most)
    return owner.where(kept, -1), (rank - matched * 4).where(kept, NONE)
