"""Give queries their targets, whoever says what these are."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kdflow.functional.box_forms import image_scales, to_center
from kdflow.functional.matching import assign_all, target_cost
from kdflow.functional.precision import single
from kdflow.kinds import LAYER_VALUES, LAYERS, PAIRS, Boxes, Labels, Layers, Scores, Sizes
from kdflow.operation import op

Weight = Annotated[float, Field(ge=0)]
_NONE = -1


def _infer(logits: Layers, boxes: Layers, **_: Any) -> dict[str, Any]:
    values = [single(layer)[..., 0] for layer in logits]
    nothing = torch.arange(0, device=logits[0].device)
    return {
        "pairs": [[(nothing, nothing)] * len(layer) for layer in logits],
        "matched": values,
        "labels": [value.long() for value in values],
        "boxes": [single(layer) for layer in boxes],
        "weights": values,
    }


@op(
    "matching.targets",
    gives={"pairs": PAIRS, "matched": LAYER_VALUES, "labels": LAYER_VALUES, "boxes": LAYERS, "weights": LAYER_VALUES},
    defaults={"target_boxes": "targets.boxes", "target_labels": "targets.labels", "image_sizes": "image_sizes"},
    no_grad=True,
    infer=_infer,
)
def targets(
    logits: Layers,
    boxes: Layers,
    target_boxes: Boxes,
    target_labels: Labels,
    image_sizes: Sizes,
    target_scores: Scores | None = None,
    classes: Weight = 2.0,
    l1: Weight = 5.0,
    giou: Weight = 2.0,
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.25,
    gamma: Weight = 2.0,
    rest: Weight = 1.0,
) -> dict[str, Any]:
    """The cheapest one-to-one matching of queries and targets, by layer and image, and what every query is to predict by it.

    The cost is Deformable DETR's, ``classes * focal + l1 * |boxes|_1 - giou * GIoU``; scores take no part. ``pairs`` are
    (query, target), as ``match.indices``. ``matched`` is 1 for queries that have a target. ``labels`` are their classes,
    -1 (no class, as ``transform.one_hot`` reads it) for others; ``boxes`` are cxcywh in 0..1, zeros for others. ``weights``
    are the targets' scores (1 without scores), ``rest`` for others. The matching is exact, on the CPU. Source: Teach-DETR
    (arXiv 2211.11953).

    Args:
        logits: Per layer (B, Q, C) sigmoid logits.
        boxes: Per layer (B, Q, 4) cxcywh in 0..1.
        target_boxes: Per image (n, 4) xyxy pixels of the padded input: ground truth, or what ``regions.propose`` kept.
        target_labels: Per image (n,) classes.
        image_sizes: (height, width) inside the padding.
        target_scores: Per image (n,) weight of each target.
        classes: Weight of the class cost.
        l1: Weight of the box distance.
        giou: Weight of the overlap.
        alpha: Weight of what is wanted in the focal cost.
        gamma: Exponent of the error in the focal cost.
        rest: Weight of queries without a target.
    """
    scales = image_scales(image_sizes, single(boxes[0]))
    goals = [to_center(b.to(s.dtype) / s) for b, s in zip(target_boxes, scales, strict=True)]
    padded, kinds = pad_sequence(goals, batch_first=True), pad_sequence([own.long() for own in target_labels], batch_first=True)
    costs = [
        target_cost(single(x), single(b), padded, kinds, classes, l1, giou, alpha, gamma)
        for x, b in zip(logits, boxes, strict=True)
    ]
    pairs = assign_all(costs, [len(goal) for goal in goals])
    scores = [torch.ones_like(goal[:, 0]) for goal in goals] if target_scores is None else target_scores

    def spread(values: list[Tensor], empty: float) -> list[Tensor]:
        """Per layer (B, Q, ...): the value of each query's target, ``empty`` for others."""
        return [
            torch.stack([_of_queries(len(x), pair, own, empty) for x, pair, own in zip(layer, layer_pairs, values, strict=True)])
            for layer, layer_pairs in zip(logits, pairs, strict=True)
        ]

    return {
        "pairs": pairs,
        "matched": spread([torch.ones_like(goal[:, 0]) for goal in goals], 0),
        "labels": spread(list(target_labels), _NONE),
        "boxes": spread(goals, 0),
        "weights": spread([score.to(scales.dtype) for score in scores], rest),
    }


def _of_queries(queries: int, pairs: tuple[Tensor, Tensor], values: Tensor, empty: float) -> Tensor:
    query, target = pairs
    return values.new_full((queries, *values.shape[1:]), empty).index_copy(0, query, values[target])
