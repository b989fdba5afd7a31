"""Stages of GFL and ATSS: priors, assignment (ATSS) and the losses, which no library offers."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from kdflow.detectors import dense_stages as dense
from kdflow.detectors.gfl_model import GFLHead
from kdflow.detectors.loss_terms import LossTerms
from kdflow.detectors.torchvision_parts import Held
from kdflow.functional import boxes as bx
from kdflow.functional.assignment import atss_assign
from kdflow.functional.dense_losses import distribution_focal, edge_distances, varifocal
from kdflow.functional.devices import send
from kdflow.functional.divergences import quality_focal
from kdflow.functional.precision import single
from kdflow.functional.reduce import mean_over_ranks
from kdflow.ports import ImageSizes


class PointDecode(Held):
    """Boxes of every cell.

    Args:
        owner: The head.
        output: The head output that boxes are decoded from.
    """

    def __init__(self, owner: nn.Module, output: str) -> None:
        super().__init__(owner)
        self.output = output

    def forward(self, values: list[Tensor], priors: list[Tensor]) -> dict[str, Any]:
        """``boxes`` (B, H*W, 4) xyxy per level, not clipped."""
        decode = self.owner.decode
        return {"boxes": [decode({self.output: v}, p, level) for level, (v, p) in enumerate(zip(values, priors))]}


class PointAssign(nn.Module):
    """Adaptive training sample selection, per image, on the cells that its own padded area covers.

    Args:
        strides: Pixels per cell, per level.
        topk: Candidates per level and object.
        divisor: An image's own padded sides are the next multiples of this; cells beyond exist because of other images only,
            and are not trained on.
    """

    def __init__(self, strides: Sequence[int], topk: int, divisor: int) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.topk = topk
        self.divisor = divisor

    def forward(
        self, priors: list[Tensor], maps: list[Tensor], boxes: list[Tensor], image_sizes: ImageSizes
    ) -> dict[str, Any]:
        """Values per level of :func:`kdflow.detectors.dense_stages.describe`."""
        found = []
        for own, size in zip(boxes, image_sizes):
            valid = self.covered(maps, size)
            indices = atss_assign(priors, own, self.topk, valid).indices
            found.append(torch.where(valid, indices, -2))
        return dense.describe(torch.stack(found), [len(p) for p in priors], boxes)

    def infer(
        self, priors: list[Tensor], maps: list[Tensor], boxes: list[Tensor], image_sizes: ImageSizes
    ) -> dict[str, Any]:
        """One value per cell."""
        del maps, image_sizes
        return dense.empty_assignment(priors, len(boxes))

    def covered(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        """(R,) True for cells of all levels inside the padded area of an image of this size."""
        height, width = (-(-side // self.divisor) * self.divisor for side in size)
        parts = []
        for m, stride in zip(maps, self.strides):
            inside = torch.zeros(m.shape[-2:], dtype=torch.bool, device=m.device)
            inside[: -(-height // stride), : -(-width // stride)] = True
            parts.append(inside.flatten())
        return torch.cat(parts)


class PointTargets:
    """The assignment of one batch as the losses read it.

    The number of positives is asked of the device once for all levels; whatever reads them, takes their rows.

    Attributes:
        rows: (image, cell) of every positive, per level, in this order.
        weight: (B, R) per level, 0 where a cell is not trained on.
        labels: Class of every positive, per level.
        boxes: (P, 4) their objects' boxes, per level.
        points: (P, 2) centres of their priors, per level.
        count: Sum over images of max(number of positives, 1), averaged over processes; at least 1.
    """

    def __init__(self, priors: list[Tensor], indices: list[Tensor], boxes: list[Tensor], labels: list[Tensor]) -> None:
        self.weight = [(i != -2).to(priors[0].dtype) for i in indices]
        self.rows = positive_rows(indices)
        self.boxes, self.labels, self.points, self.priors = [], [], [], []
        starts = torch.tensor([0, *(len(own) for own in boxes)]).cumsum(0)[:-1]
        first = send(starts, indices[0].device)
        every, classes = torch.cat(boxes), torch.cat(labels)
        for places, level, (image, cell) in zip(priors, indices, self.rows):
            chosen = level[image, cell] + first[image]
            self.boxes.append(every[chosen])
            self.labels.append(classes[chosen])
            self.priors.append(places[cell])
            self.points.append(bx.centers(self.priors[-1]))
        per_image = torch.stack([(i >= 0).sum(1) for i in indices]).sum(0)
        self.count = mean_over_ranks(per_image.clamp(min=1).sum().float()).clamp(min=1)


def positive_rows(indices: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(image, cell) of the entries of (B, R) per level that are no less than 0."""
    positive = [i >= 0 for i in indices]
    counts = torch.stack([p.sum() for p in positive]).tolist()
    found = torch.cat([p.flatten() for p in positive]).nonzero().squeeze(1).split(counts)
    starts = [0, *itertools.accumulate(p.numel() for p in positive)]
    cells = [own - start for own, start in zip(found, starts)]
    return [(own.div(p.shape[1], rounding_mode="floor"), own % p.shape[1]) for own, p in zip(cells, positive)]


class PointLoss(LossTerms, Held, ABC):
    """Base of the losses: sums the levels of :meth:`per_level`.

    Args:
        owner: The head.
        weights: Loss term -> factor, in order.
    """

    def __init__(self, owner: nn.Module, weights: dict[str, float]) -> None:
        super().__init__(owner)
        self.weights = dict(weights)
        self.names = tuple(weights)

    def forward(
        self,
        priors: list[Tensor],
        indices: list[Tensor],
        boxes: list[Tensor],
        labels: list[Tensor],
        **outputs: list[Tensor],
    ) -> dict[str, Any]:
        """Weighted loss terms, scalars."""
        targets = PointTargets(priors, indices, boxes, labels)
        # Sums of many small numbers: never in half precision.
        found = self.per_level(targets, **{name: [single(v) for v in levels] for name, levels in outputs.items()})
        return {name: torch.stack(levels).sum() * self.weights[name] for name, levels in found.items()}

    @abstractmethod
    def per_level(self, targets: PointTargets, **outputs: list[Tensor]) -> dict[str, list[Tensor]]:
        """Unweighted terms, one number per level."""


class GflLoss(PointLoss):
    """Quality or varifocal loss, GIoU loss and distribution focal loss.

    Source: mmdetection ``gfl_head.py``. Places without objects give 0 with a gradient of 0.

    Args:
        owner: The head.
        weights: Factors of ``loss_cls``, ``loss_bbox``, ``loss_dfl``.
        cls_loss: ``qfl`` or ``vfl``.
        box_weight: Weight of a positive in the box terms: its best class ``score``, or its ``iou``.
        beta: Exponent of the quality focal loss.
        alpha: Weight of negatives in the varifocal loss.
        gamma: Exponent of their probability in it.
    """

    def __init__(
        self,
        owner: nn.Module,
        weights: dict[str, float],
        cls_loss: Literal["qfl", "vfl"],
        box_weight: Literal["score", "iou"],
        beta: float = 2.0,
        alpha: float = 0.75,
        gamma: float = 2.0,
    ) -> None:
        super().__init__(owner, weights)
        self.cls_loss = cls_loss
        self.box_weight = box_weight
        self.focus = {"beta": beta, "alpha": alpha, "gamma": gamma}

    def per_level(self, targets: PointTargets, **outputs: list[Tensor]) -> dict[str, list[Tensor]]:
        """Terms of ``logits`` and ``distribution``."""
        head: GFLHead = self.owner
        edges = [d[rows] for d, rows in zip(outputs["distribution"], targets.rows)]
        predicted, wanted, ious = [], [], []
        for own, points, boxes, stride in zip(edges, targets.points, targets.boxes, head.strides):
            distances, centers = head.distances(own), points / stride
            predicted.append(torch.cat([centers - distances[:, :2], centers + distances[:, 2:]], dim=1))
            wanted.append(boxes / stride)
            ious.append(bx.iou(predicted[-1].detach(), wanted[-1]))
        weights = self.box_weights(targets, outputs["logits"], ious)
        total = mean_over_ranks(torch.cat(weights).sum()).clamp(min=1)
        classes = [
            self.classification(z, targets, level, iou) for level, (z, iou) in enumerate(zip(outputs["logits"], ious))
        ]
        boxes_terms = [(w * (1 - bx.giou(p, b))).sum() / total for w, p, b in zip(weights, predicted, wanted)]
        shapes = [
            (w[:, None] * self.shape_loss(own, points / stride, b)).sum() / (4 * total)
            for w, own, points, b, stride in zip(weights, edges, targets.points, wanted, head.strides)
        ]
        return {"loss_cls": classes, "loss_bbox": boxes_terms, "loss_dfl": shapes}

    def box_weights(self, targets: PointTargets, logits: list[Tensor], ious: list[Tensor]) -> list[Tensor]:
        """Weight of every positive in the box terms, without gradient."""
        if self.box_weight == "iou":
            return ious
        return [z.detach()[rows].sigmoid().amax(-1) for z, rows in zip(logits, targets.rows)]

    def shape_loss(self, edges: Tensor, points: Tensor, boxes: Tensor) -> Tensor:
        """(P, 4) distribution focal loss; points and boxes in strides."""
        return distribution_focal(edges.unflatten(-1, (4, -1)), edge_distances(points, boxes, self.owner.bins))

    def classification(self, logits: Tensor, targets: PointTargets, level: int, ious: Tensor) -> Tensor:
        """The class term of one level."""
        wanted = torch.zeros_like(logits)
        image, cell = targets.rows[level]
        floor = 1e-6 if self.cls_loss == "vfl" else 0.0  # a positive of IoU 0 stays positive
        wanted[image, cell, targets.labels[level]] = ious.clamp(min=floor)
        if self.cls_loss == "qfl":
            values = quality_focal(logits, wanted, self.focus["beta"])
        else:
            values = varifocal(logits, wanted, self.focus["alpha"], self.focus["gamma"])
        return (values.sum(-1) * targets.weight[level]).sum() / targets.count


class AtssLoss(PointLoss):
    """Focal loss, centerness-weighted GIoU loss and centerness loss.

    Source: mmdetection ``atss_head.py``.
    """

    def per_level(self, targets: PointTargets, **outputs: list[Tensor]) -> dict[str, list[Tensor]]:
        """Terms of ``logits``, ``deltas`` and ``centerness``."""
        central = [bx.centerness(points, boxes) for points, boxes in zip(targets.points, targets.boxes)]
        total = mean_over_ranks(torch.cat(central).sum()).clamp(min=1)
        found: dict[str, list[Tensor]] = {"loss_cls": [], "loss_bbox": [], "loss_centerness": []}
        deltas = [values[rows] for values, rows in zip(outputs["deltas"], targets.rows)]
        decoded = self.owner.coder.decode_single(torch.cat(deltas), torch.cat(targets.priors)).split([len(d) for d in deltas])
        for level, (rows, predicted) in enumerate(zip(targets.rows, decoded)):
            found["loss_cls"].append(self.classification(outputs["logits"][level], targets, level))
            missed = 1 - bx.giou(predicted, targets.boxes[level])
            found["loss_bbox"].append((central[level] * missed).sum() / total)
            own = outputs["centerness"][level][rows]
            entropy = functional.binary_cross_entropy_with_logits(own, central[level], reduction="sum")
            found["loss_centerness"].append(entropy / targets.count)
        return found

    def classification(self, logits: Tensor, targets: PointTargets, level: int) -> Tensor:
        """The class term of one level."""
        wanted = torch.zeros_like(logits)
        image, cell = targets.rows[level]
        wanted[image, cell, targets.labels[level]] = 1
        values = sigmoid_focal_loss(logits, wanted, alpha=0.25, gamma=2.0, reduction="none")
        return (values.sum(-1) * targets.weight[level]).sum() / targets.count
