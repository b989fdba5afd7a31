"""Set losses of the transformer detectors: matching, and the library's criterion on given pairs.

Targets reach the library as normalised cxcywh boxes and 0-based labels. Its criterion receives the pairs that the matching stage
found, so that a method may hand it other pairs, targets or predictions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.detectors.hf_parts import Labels, to_labels
from kdflow.kinds import SCALAR
from kdflow.ports import ImageSizes, Port

Pairs = list[list[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class SetLoss:
    """A family's set loss, as matching and criterion read it.

    Attributes:
        make: Makes the library's criterion with its matcher.
        names: Loss terms of one layer, in the library's order.
        weights: Factor per name; empty where the library's criterion applies them itself.
        auxiliary: Suffix pattern of earlier layers' terms (``_aux_{}``); empty for a loss on the last layer alone.
        clamp: Boxes are clamped to 0..1 first (D-FINE).
        one_class: All classes are taken as one (the proposals of Deformable DETR).
        focal: Alpha and gamma of the matcher's class cost; None where it is that of a softmax.
    """

    make: Callable[[], Any]
    names: tuple[str, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    auxiliary: str = ""
    clamp: bool = False
    one_class: bool = False
    focal: tuple[float, float] | None = None

    def clamped(self, boxes: list[Tensor]) -> list[Tensor]:
        """Predicted boxes as the loss reads them."""
        return [b.clamp(min=0, max=1) for b in boxes] if self.clamp else boxes

    def targets(self, boxes: list[Tensor], labels: list[Tensor], image_sizes: ImageSizes) -> Labels:
        """Targets as the library wants them, see :func:`to_labels`."""
        labels = [torch.zeros_like(x) for x in labels] if self.one_class else labels
        return to_labels(boxes, labels, image_sizes)


def class_cost(loss: SetLoss, logits: Tensor, classes: Tensor) -> Tensor:
    """The library's (R, T) cost of the classes (T,) in view of scores (R, K)."""
    if loss.focal is None:
        return -logits.softmax(-1)[:, classes]
    alpha, gamma = loss.focal
    scores = logits.sigmoid()[:, classes]
    negative = (1 - alpha) * (scores**gamma) * (-(1 - scores + 1e-8).log())
    return alpha * ((1 - scores) ** gamma) * (-(scores + 1e-8).log()) - negative


def matching_cost(loss: SetLoss, logits: Tensor, boxes: Tensor, targets: Labels) -> Tensor:
    """The library's matching cost of queries and objects, for any number of layers at once.

    Args:
        loss: Whose matcher says the weights.
        logits: (R, K) of all queries of all images and layers.
        boxes: (R, 4) cxcywh.
        targets: Per image, see :func:`to_labels`; T objects altogether.

    Returns:
        (R, T); what is not finite is as bad as can be.
    """
    from transformers.image_transforms import center_to_corners_format as corners
    from transformers.loss.loss_for_object_detection import generalized_box_iou

    matcher, goal = loss.make().matcher, torch.cat([t["boxes"] for t in targets])
    overlap = generalized_box_iou(corners(boxes), corners(goal))
    classes = class_cost(loss, logits, torch.cat([t["class_labels"] for t in targets]))
    cost = (
        matcher.bbox_cost * torch.cdist(boxes, goal, p=1) + matcher.class_cost * classes + matcher.giou_cost * -overlap
    )
    worst = torch.finfo(cost.dtype).max
    return torch.nan_to_num(cost, nan=worst, posinf=worst, neginf=worst)


class Match(nn.Module):
    """The library's assignment of queries to objects, per decoder layer; all layers share one copy of costs and one of pairs."""

    def __init__(self, loss: SetLoss) -> None:
        super().__init__()
        self.loss = loss

    @torch.no_grad()
    def forward(
        self,
        logits: list[Tensor],
        boxes: list[Tensor],
        target_boxes: list[Tensor],
        target_labels: list[Tensor],
        image_sizes: ImageSizes,
    ) -> dict[str, Any]:
        """``indices``: per layer and image (query, target) int64 on the device of the logits."""
        targets = self.loss.targets(target_boxes, target_labels, image_sizes)
        rows = (
            torch.cat([x.flatten(0, 1) for x in logits]),
            torch.cat([b.flatten(0, 1) for b in self.loss.clamped(boxes)]),
        )
        cost = matching_cost(self.loss, *rows, targets).cpu()
        layers = cost.split([x.shape[0] * x.shape[1] for x in logits])
        return {
            "indices": self.assigned(
                [c.unflatten(0, x.shape[:2]) for c, x in zip(layers, logits)], targets, rows[0].device
            )
        }

    def assigned(self, costs: list[Tensor], targets: Labels, device: torch.device) -> Pairs:
        """The cheapest pairs of each layer's (B, N, T) cost, which go to the device together."""
        from scipy.optimize import linear_sum_assignment

        sizes = [len(t["boxes"]) for t in targets]
        found = [
            torch.as_tensor(numbers, dtype=torch.long)
            for cost in costs
            for image, own in enumerate(cost.split(sizes, -1))
            for numbers in linear_sum_assignment(own[image])
        ]
        moved = torch.cat(found).to(device).split([len(numbers) for numbers in found])
        pairs = list(zip(moved[::2], moved[1::2]))
        return [pairs[i : i + len(sizes)] for i in range(0, len(pairs), len(sizes))]

    def infer(self, logits: list[Tensor], target_labels: list[Tensor], **rest: Any) -> dict[str, Any]:
        """As many pairs as targets, or as queries where these are fewer."""
        del rest
        counts = [min(len(t), logits[0].shape[1]) for t in target_labels]
        pair = [(logits[0].new_empty(n, dtype=torch.long), logits[0].new_empty(n, dtype=torch.long)) for n in counts]
        return {"indices": [list(pair) for _ in logits]}


class Given(nn.Module):
    """Stands in for a matcher: hands out pairs found before, in the order in which the criterion asks."""

    def __init__(self, pairs: Sequence[list[tuple[Tensor, Tensor]]]) -> None:
        super().__init__()
        self.pairs = list(pairs)

    def forward(self, outputs: Any, targets: Any, group_detr: int = 1) -> list[tuple[Tensor, Tensor]]:
        """The next layer's pairs."""
        del outputs, targets, group_detr
        return self.pairs.pop(0)


class Terms(nn.Module):
    """A stage that gives loss terms.

    Attributes:
        names: Their names, in the library's order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = tuple(names)

    def ports(self) -> dict[str, Port]:
        """``losses.<name>`` for each term."""
        doc = "weighted loss term of the library"
        return {name: Port(f"losses.{name}", SCALAR, doc=doc) for name in self.names}

    def infer(self, **values: Any) -> dict[str, Any]:
        """Scalars."""
        like: Tensor = values["logits" if "logits" in values else "boxes"][0]
        return {name: like.new_zeros(()) for name in (*self.names, "total")}


class Criterion(Terms):
    """The library's own set loss of some layers, on given pairs.

    Args:
        loss: Which loss.
        layers: Number of layers.
        suffix: Behind the names of the terms.
    """

    def __init__(self, loss: SetLoss, layers: int = 1, suffix: str = "") -> None:
        earlier = [loss.auxiliary.format(i) for i in range(layers - 1)] if loss.auxiliary else []
        super().__init__(f"{name}{end}" for end in (suffix, *earlier) for name in loss.names)
        self.loss, self.suffix = loss, suffix

    def forward(
        self,
        logits: list[Tensor],
        boxes: list[Tensor],
        pairs: Pairs,
        target_boxes: list[Tensor],
        target_labels: list[Tensor],
        image_sizes: ImageSizes,
    ) -> dict[str, Any]:
        """Weighted scalar per loss term, and ``total``, their sum."""
        labels = self.loss.targets(target_boxes, target_labels, image_sizes)
        return self.terms(self.loss.make().to(logits[0].device), logits, boxes, pairs, labels)

    def terms(
        self, criterion: Any, logits: list[Tensor], boxes: list[Tensor], pairs: Pairs, labels: Labels
    ) -> dict[str, Any]:
        """What the library's ``criterion`` says of these predictions."""
        boxes = self.loss.clamped(boxes)
        outputs: dict[str, Any] = {"logits": logits[-1], "pred_boxes": boxes[-1]}
        if self.loss.auxiliary:
            earlier = zip(logits[:-1], boxes[:-1])
            outputs["auxiliary_outputs"] = [{"logits": x, "pred_boxes": b} for x, b in earlier]
        criterion.matcher = Given([pairs[-1], *pairs[:-1]])
        return self.weighted(criterion(outputs, labels))

    def weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Any]:
        """The terms times their weights, and the total of all of them in the library's order."""
        known, weights = self.loss.names, self.loss.weights
        terms = {
            f"{name}{self.suffix}": value * weights[layerless(name)] if weights else value
            for name, value in losses.items()
            if layerless(name) in known
        }
        total = sum(terms.values())
        return {**{name: terms.get(name, total * 0) for name in self.names}, "total": total}


def masked_loss(
    config: Any,
    auxiliary: bool,
    make: Callable[[Any], Any],
    class_weight: float = 1,
    focal: tuple[float, float] | None = (0.25, 2.0),
) -> SetLoss:
    """The set loss of a transformer that knows the padding.

    Args:
        config: The library's configuration.
        auxiliary: Losses on every decoder layer, not on the last alone.
        make: Makes the library's criterion of the configuration.
        class_weight: Factor of the class term; the library's is 1.
        focal: See :class:`SetLoss`; the default is what the library's matcher of sigmoid scores has.
    """
    boxes = {"loss_bbox": config.bbox_loss_coefficient, "loss_giou": config.giou_loss_coefficient}
    weights = {"loss_ce": class_weight, **boxes}
    return SetLoss(partial(make, config), tuple(weights), weights, "_{}" if auxiliary else "", focal=focal)


def layerless(name: str) -> str:
    """``loss_bbox_aux_3`` -> ``loss_bbox``."""
    return re.sub(r"(_aux|_dn|_enc)?(_\d+)?$", "", name)
