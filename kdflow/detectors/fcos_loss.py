"""FCOS's losses, by the library's formulas and bits (``torchvision.models.detection.fcos``), with one question to the device.

The library selects the cells of objects by a mask, tensor by tensor, and the host waits for the size of each. Here places are
found once. The order of the lines is the library's, since gradients are summed in their reverse order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss


def losses(
    head: Any, targets: list[dict[str, Tensor]], outputs: dict[str, Tensor], priors: list[Tensor], indices: list[Tensor]
) -> dict[str, Tensor]:
    """The library's three losses, divided by the number of cells of objects, at least 1.

    Args:
        head: The library's head.
        targets: ``boxes`` (n, 4) xyxy and ``labels`` (n,) per image.
        outputs: ``cls_logits`` (B, R, K), ``bbox_regression`` (B, R, 4) and ``bbox_ctrness`` (B, R, 1).
        priors: (R, 4) xyxy per image.
        indices: (R,) object of each cell per image, below 0 for none.
    """
    goals = [object_of_each(own, chosen) for own, chosen in zip(targets, indices)]
    classes, boxes = (torch.stack(list(own)) for own in zip(*goals))
    places = torch.stack(priors)
    image, cell = (classes >= 0).nonzero().unbind(1)
    count = max(1, len(cell))
    wanted = torch.zeros_like(outputs["cls_logits"])
    wanted[image, cell, classes[image, cell]] = 1.0
    kinds = sigmoid_focal_loss(outputs["cls_logits"], wanted, reduction="sum")
    predicted = head.box_coder.decode(outputs["bbox_regression"], places)
    missed = giou_loss(predicted[image, cell], boxes[image, cell]).sum()
    truth = centerness(head.box_coder.encode(places, boxes))
    own = outputs["bbox_ctrness"].squeeze(dim=2)[image, cell]
    central = functional.binary_cross_entropy_with_logits(own, truth[image, cell], reduction="sum")
    return {"classification": kinds / count, "bbox_regression": missed / count, "bbox_ctrness": central / count}


def object_of_each(target: dict[str, Tensor], indices: Tensor) -> tuple[Tensor, Tensor]:
    """Class (R,), -1 for none, and box (R, 4) of the object of each cell of one image."""
    labels, boxes = target["labels"], target["boxes"]
    if not len(labels):
        return labels.new_full((len(indices),), -1), boxes.new_zeros((len(indices), 4))
    chosen = indices.clip(min=0)
    return torch.where(indices < 0, -1, labels[chosen]), boxes[chosen]


def centerness(distances: Tensor) -> Tensor:
    """(B, R) from (B, R, 4) distances to left, top, right and bottom edge; no number outside of an object."""
    across, down = distances[..., 0::2], distances[..., 1::2]
    return torch.sqrt((across.min(dim=-1)[0] / across.max(dim=-1)[0]) * (down.min(dim=-1)[0] / down.max(dim=-1)[0]))


def giou_loss(ours: Tensor, others: Tensor, eps: float = 1e-7) -> Tensor:
    """(N,) one minus the generalised IoU of xyxy boxes in pairs, as the library's ``generalized_box_iou_loss``."""
    ours, others = (x if x.dtype in (torch.float32, torch.float64) else x.float() for x in (ours, others))
    x1, y1, x2, y2 = ours.unbind(dim=-1)
    u1, v1, u2, v2 = others.unbind(dim=-1)
    left, top, right, bottom = torch.max(x1, u1), torch.max(y1, v1), torch.min(x2, u2), torch.min(y2, v2)
    overlaps = (bottom > top) & (right > left)
    shared = torch.where(overlaps, (right - left) * (bottom - top), 0.0)
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared
    overlap = shared / (union + eps)
    start_x, start_y, end_x, end_y = torch.min(x1, u1), torch.min(y1, v1), torch.max(x2, u2), torch.max(y2, v2)
    hull = (end_x - start_x) * (end_y - start_y)
    return 1 - (overlap - (hull - union) / (hull + eps))
