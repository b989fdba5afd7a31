"""SimOTA: each object takes the cells that predict it at least cost, as many as their overlaps with it add up to."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kdflow.functional.precision import single

Region = Literal["center", "box_or_center"]
OUTSIDE = {"center": 1e6, "box_or_center": 1e5}
"""What a cell costs on top where it does not lie in the region of the object."""


class SimotaRule(NamedTuple):
    """How cells are chosen.

    Attributes:
        region: ``center``: cells near an object's centre are candidates. ``box_or_center``: so are those inside its box, and
            those that are not both cost more.
        radius: Half the side of the square around the centre, in cells of each level.
        topk: Number of largest overlaps whose sum, rounded down and at least 1, is the number of cells that an object takes.
        iou_cost: Factor of ``-log(IoU)`` beside the class cost.
    """

    region: Region = "center"
    radius: float = 1.5
    topk: int = 10
    iou_cost: float = 3.0


class Simota(NamedTuple):
    """Result of an assignment: B images, M objects (with those that only fill up), R cells.

    Attributes:
        near: (B, M, R) the cell lies in the region of the object, at no further cost.
        candidates: (B, R) the cell may be taken by some object.
        overlaps: (B, M, R) IoU of object and predicted box; 0 where the cell is no candidate or the object fills up.
        cost: (B, M, R); infinite there.
        counts: (B, M) int64, cells that each object takes at first.
        indices: (B, R) int64 object of each cell, -1 where none.
        own: (B, R) IoU of each taken cell with its object, 0 elsewhere.
    """

    near: Tensor
    candidates: Tensor
    overlaps: Tensor
    cost: Tensor
    counts: Tensor
    indices: Tensor
    own: Tensor


@torch.no_grad()
def simota(
    cells: Tensor,
    boxes: Tensor,
    labels: Tensor,
    real: Tensor,
    predicted: Tensor,
    logits: Tensor,
    objectness: Tensor,
    rule: SimotaRule,
) -> Simota:
    """Assignment of cells to objects for a batch, without reading the device.

    A cell that several objects take goes to the object for which it costs least among all, also among those that did not take
    it. Source: Ge et al., arXiv 2107.08430; the class cost is computed in single precision, as there.

    Args:
        cells: (R, 4) xyxy pixels, all levels.
        boxes: (B, M, 4) objects as centre and sides in pixels.
        labels: (B, M) int64.
        real: (B, M) bool, False for entries that only fill up; M is at least 1.
        predicted: (B, R, 4) as centre and sides in pixels.
        logits: (B, R, K).
        objectness: (B, R) logits.
        rule: How cells are chosen.
    """
    near, candidates = _regions(cells, boxes, real, rule)
    usable = candidates[:, None] & real[..., None]
    # The overlap of a box without bounds may be no number; it overlaps nothing.
    overlaps = torch.where(usable, center_iou(boxes[:, :, None], predicted[:, None]).nan_to_num(0.0), 0.0)
    cost = _class_cost(logits, objectness, labels) + rule.iou_cost * -torch.log(overlaps + 1e-8)
    cost = torch.where(usable, cost + OUTSIDE[rule.region] * ~near, torch.inf)
    best = min(rule.topk, len(cells))
    counts = overlaps.topk(best, dim=-1).values.sum(-1).to(torch.long).clamp(min=1)
    cheapest = cost.topk(best, dim=-1, largest=False)
    within = (torch.arange(best, device=cost.device) < counts[..., None]) & cheapest.values.isfinite()
    taken = torch.zeros_like(usable).scatter(-1, cheapest.indices, within)
    takers = taken.sum(1)
    indices = torch.where(takers > 1, cost.argmin(1), taken.to(torch.uint8).argmax(1)).masked_fill(takers == 0, -1)
    own = overlaps.gather(1, indices.clamp(min=0)[:, None]).squeeze(1)
    return Simota(near, candidates, overlaps, cost, counts, indices, torch.where(indices >= 0, own, 0.0))


def _regions(cells: Tensor, boxes: Tensor, real: Tensor, rule: SimotaRule) -> tuple[Tensor, Tensor]:
    """(B, M, R) cells in the region of each object, and (B, R) those that are candidates."""
    places, sides = (cells[:, :2] + cells[:, 2:]) / 2, cells[:, 2:] - cells[:, :2]
    offsets = (places - boxes[:, :, None, :2]).abs()
    central = (offsets < rule.radius * sides).all(-1)
    if rule.region == "center":
        near = possible = central
    else:
        inside = (offsets < boxes[:, :, None, 2:] / 2).all(-1)
        near, possible = inside & central, inside | central
    return near & real[..., None], (possible & real[..., None]).any(1)


def _class_cost(logits: Tensor, objectness: Tensor, labels: Tensor) -> Tensor:
    """(B, M, R) binary cross-entropy of the joint probabilities' roots with each object's class, summed over classes."""
    chances = (logits.float().sigmoid() * objectness.float().sigmoid()[..., None]).sqrt()
    present, absent = (chance.log().clamp(min=-100) for chance in (chances, 1 - chances))
    change = (absent - present).transpose(1, 2)
    chosen = labels[..., None].expand(-1, -1, logits.shape[1])
    return change.gather(1, chosen) - absent.sum(-1)[:, None]


def center_iou(a: Tensor, b: Tensor, eps: float = 0.0) -> Tensor:
    """IoU of boxes as centre and sides, of broadcastable shapes ``(..., 4)``; without gradient where they do not overlap.

    Args:
        a: Boxes.
        b: Boxes.
        eps: Added to the union.
    """
    a, b = single(a), single(b)
    near = torch.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    far = torch.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    sides = far - near
    shared = torch.where((sides > 0).all(-1), sides[..., 0] * sides[..., 1], 0.0)
    return shared / (a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - shared + eps)
