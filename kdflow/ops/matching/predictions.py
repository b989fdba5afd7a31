"""Pair the predictions of two decoders."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

from kdflow.errors import UsageError
from kdflow.functional.matching import assign_all, prediction_cost
from kdflow.functional.precision import single
from kdflow.kinds import Layers, Pairs
from kdflow.operation import op

Weight = Annotated[float, Field(ge=0)]


def _infer(student_logits: Layers, teacher_logits: Layers, **_: Any) -> Pairs:
    images, ours, theirs = len(student_logits[0]), student_logits[0].shape[1], teacher_logits[0].shape[1]
    index = torch.arange(min(ours, theirs), device=student_logits[0].device)
    return [[(index, index) for _ in range(images)] for _ in student_logits]


@op("matching.predictions", no_grad=True, infer=_infer)
def predictions(
    student_logits: Layers,
    teacher_logits: Layers,
    student_boxes: Layers,
    teacher_boxes: Layers,
    classes: Weight = 1.0,
    l1: Weight = 5.0,
    giou: Weight = 2.0,
) -> Pairs:
    """The cheapest one-to-one pairing of student and teacher queries, per decoder layer and image.

    The cost of a pair is ``classes * sum_c BCE(student logit, teacher score) + l1 * |boxes|_1 - giou * GIoU``. With
    unequal numbers of queries the surplus stays unpaired. Layers are paired by index. The pairing is exact and is done
    on the CPU. Source: DETRDistill (arXiv 2211.10156), ``distill_hungarian_assigner.py``.

    Args:
        student_logits: Per layer (B, N, C) sigmoid logits.
        teacher_logits: Per layer (B, M, C) sigmoid logits.
        student_boxes: Per layer (B, N, 4) cxcywh in 0..1.
        teacher_boxes: Per layer (B, M, 4) cxcywh in 0..1.
        classes: Weight of the class cost.
        l1: Weight of the box distance.
        giou: Weight of the overlap.
    """
    stacks = (student_logits, teacher_logits, student_boxes, teacher_boxes)
    if len({len(s) for s in stacks}) > 1:
        counts = f"the student gives {len(student_logits)} layers, the teacher {len(teacher_logits)}"
        raise UsageError(f"{counts}; choose equally many, such as decoder.logits[0:3]")
    costs = [
        prediction_cost(single(x), single(z), single(s), single(t), classes, l1, giou)
        for x, z, s, t in zip(*stacks, strict=True)
    ]
    return assign_all(costs)
