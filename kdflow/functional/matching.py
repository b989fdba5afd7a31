"""One-to-one assignment between the predictions of two models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kdflow.functional import boxes as bx
from kdflow.functional.box_forms import to_corners
from kdflow.functional.precision import in_full

Pairs = list[list[tuple[Tensor, Tensor]]]


@in_full
def prediction_cost(
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_boxes: Tensor,
    teacher_boxes: Tensor,
    classes: float = 1.0,
    l1: float = 5.0,
    giou: float = 2.0,
) -> Tensor:
    """Cost of pairing every student prediction with every teacher prediction of the same image.

    ``classes * sum_c BCE(x_ic, sigmoid(z_jc)) + l1 * |s_i - t_j|_1 - giou * GIoU(s_i, t_j)``.

    Args:
        student_logits: (B, N, C) sigmoid logits x.
        teacher_logits: (B, M, C) sigmoid logits z.
        student_boxes: (B, N, 4) cxcywh in 0..1.
        teacher_boxes: (B, M, 4) cxcywh in 0..1.
        classes: Weight of the class cost.
        l1: Weight of the distance of the four numbers.
        giou: Weight of the generalised IoU; scaling both axes of an image does not change it.

    Returns:
        (B, N, M).
    """
    certain = functional.softplus(student_logits).sum(-1)[:, :, None]
    cost = classes * (certain - student_logits @ torch.sigmoid(teacher_logits).transpose(1, 2))
    cost = cost + l1 * (student_boxes[:, :, None] - teacher_boxes[:, None]).abs().sum(-1)
    return cost - giou * bx.giou(to_corners(student_boxes)[:, :, None], to_corners(teacher_boxes)[:, None])


@in_full
def target_cost(
    logits: Tensor,
    boxes: Tensor,
    target_boxes: Tensor,
    labels: Tensor,
    classes: float = 2.0,
    l1: float = 5.0,
    giou: float = 2.0,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Cost of giving every query every target of its image: ``classes * focal + l1 * |s_i - t_j|_1 - giou * GIoU(s_i, t_j)``.

    The class cost is what the focal loss becomes smaller by where the query predicts the target's class, as in Deformable DETR.

    Args:
        logits: (B, N, C) sigmoid logits.
        boxes: (B, N, 4) cxcywh in 0..1.
        target_boxes: (B, M, 4) cxcywh in 0..1.
        labels: (B, M) classes.
        classes: Weight of the class cost.
        l1: Weight of the distance of the four numbers.
        giou: Weight of the generalised IoU.
        alpha: Weight of what is wanted in the focal cost; 1 - alpha is that of the rest.
        gamma: Exponent of the error in the focal cost.

    Returns:
        (B, N, M).
    """
    scores = logits.sigmoid()
    wanted = alpha * (1 - scores) ** gamma * -(scores + 1e-8).log()
    rest = (1 - alpha) * scores**gamma * -(1 - scores + 1e-8).log()
    columns = labels[:, None].expand(-1, logits.shape[1], -1)
    cost = classes * (wanted - rest).gather(2, columns)
    cost = cost + l1 * (boxes[:, :, None] - target_boxes[:, None]).abs().sum(-1)
    return cost - giou * bx.giou(to_corners(boxes)[:, :, None], to_corners(target_boxes)[:, None])


def assign_all(costs: Sequence[Tensor], counts: Sequence[int] | None = None) -> Pairs:
    """The cheapest one-to-one assignment of every image, exact (Jonker-Volgenant, scipy).

    Args:
        costs: Per layer (B, N, M); values that are not finite count as very expensive, so that a diverged model is
            noticed by its losses and not here.
        counts: How many of the M columns each image has; all where unsaid.

    Returns:
        Per layer and image (row, column), each (min(N, M),) int64, rows ascending.
    """
    from scipy.optimize import linear_sum_assignment

    table = torch.stack([c.detach() for c in costs]).double().nan_to_num(1e9, 1e9, -1e9).cpu().numpy()
    device = costs[0].device
    sizes = [table.shape[-1]] * table.shape[1] if counts is None else counts

    def solve(cost: object) -> tuple[Tensor, Tensor]:
        rows, columns = linear_sum_assignment(cost)
        return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)

    return [[solve(cost[:, :size]) for cost, size in zip(layer, sizes, strict=True)] for layer in table]
