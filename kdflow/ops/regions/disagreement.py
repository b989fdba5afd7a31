"""The places where student and teacher differ most."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torchvision.ops import nms

from kdflow.functional.box_forms import clip_to_images
from kdflow.functional.precision import single
from kdflow.kinds import BOXES, SCORES, Dense, Sizes
from kdflow.operation import op

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Score = Literal["max_then_diff", "diff_then_max"]


def _infer(student_boxes: Dense, image_sizes: Sizes, k: int = 10, **_: Any) -> dict[str, Any]:
    boxes = student_boxes[0]
    return {
        "boxes": [boxes.new_zeros((k, 4)) for _ in image_sizes],
        "scores": [boxes.new_zeros(k) for _ in image_sizes],
    }


@op(
    "regions.disagreement",
    gives={"boxes": BOXES, "scores": SCORES},
    defaults={"image_sizes": "image_sizes"},
    no_grad=True,
    infer=_infer,
)
def disagreement(
    student_logits: Dense,
    teacher_logits: Dense,
    student_boxes: Dense,
    teacher_boxes: Dense,
    image_sizes: Sizes,
    k: Positive = 10,
    nms_iou: Fraction = 0.3,
    pre_nms: Positive = 3000,
    min_side: Annotated[float, Field(ge=0)] = 10.0,
    score: Score = "max_then_diff",
) -> dict[str, Any]:
    """General instances: boxes of the places where the class scores of the two models differ most, best first.

    The box of a place is that of the more confident model. Over all levels together: the ``pre_nms`` largest
    differences, clipped to the image, without boxes of a side of ``min_side`` pixels or less, class-agnostic
    suppression, then the best ``k``. Outputs ``boxes`` and ``scores`` per image; an image may have none.
    Source: GID (arXiv 2103.02340), section 3.1, and its re-creation daixinghome/Distill_GID_detectron2.

    Args:
        student_logits: Sigmoid class logits per level (B, R, K); objectness (B, R, 1) will do.
        teacher_logits: The same places of the teacher.
        student_boxes: Decoded boxes per level (B, R, 4), xyxy pixels of the padded input.
        teacher_boxes: The teacher's.
        image_sizes: (height, width) inside the padding.
        k: Boxes kept per image.
        nms_iou: Boxes that overlap a better one by more are dropped.
        pre_nms: Places considered.
        min_side: Boxes must be wider and higher than this, pixels.
        score: ``max_then_diff`` compares the best class of each (the code), ``diff_then_max`` takes the class that
            differs most (the paper).
    """
    ours, theirs = (torch.sigmoid(single(torch.cat(list(z), dim=1))) for z in (student_logits, teacher_logits))
    best, best_theirs = ours.amax(-1), theirs.amax(-1)
    gaps = (best_theirs - best).abs() if score == "max_then_diff" else (theirs - ours).abs().amax(-1)
    surer = (best_theirs > best)[..., None]
    boxes = torch.where(surer, single(torch.cat(list(teacher_boxes), 1)), single(torch.cat(list(student_boxes), 1)))
    boxes = clip_to_images(boxes, image_sizes)
    kept = [_select(b, g, k, nms_iou, pre_nms, min_side) for b, g in zip(boxes, gaps, strict=True)]
    return {"boxes": [b for b, _ in kept], "scores": [g for _, g in kept]}


def _select(
    boxes: Tensor, gaps: Tensor, k: int, nms_iou: float, pre_nms: int, min_side: float
) -> tuple[Tensor, Tensor]:
    """Boxes and scores of one image."""
    gaps, order = gaps.topk(min(pre_nms, len(gaps)))
    boxes = boxes[order]
    large = (boxes[:, 2:] - boxes[:, :2] > min_side).all(1)
    boxes, gaps = boxes[large], gaps[large]
    keep = nms(boxes, gaps, nms_iou)[:k]
    return boxes[keep], gaps[keep]
