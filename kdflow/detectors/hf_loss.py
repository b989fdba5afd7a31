"""Set losses of the transformer detectors: matching, and the library's criterion on given pairs.

Targets reach the library as normalised cxcywh boxes and 0-based labels. Its criterion receives the pairs that the matching stage
found, so that a method may hand it other pairs, targets or predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdflow.detectors.hf_matching import Joined, Match, Pairs, joined
from kdflow.detectors.hf_parts import Labels, to_labels
from kdflow.detectors.loss_terms import LossTerms
from kdflow.detectors.rt_loss import Union
from kdflow.functional.reduce import mean_over_ranks
from kdflow.ports import ImageSizes

__all__ = ["Criterion", "Match", "Pairs", "SetLoss", "layer_terms", "masked_loss"]


@dataclass(frozen=True)
class SetLoss:
    """A family's set loss, as matching and criterion read it.

    Attributes:
        make: Makes the library's criterion with its matcher.
        names: Loss terms of one layer, in the library's order.
        weights: Factor per name; empty where the criterion applies them itself.
        auxiliary: Suffix pattern of earlier layers' terms (``_aux_{}``); empty for a loss on the last layer alone.
        clamp: Boxes are clamped to 0..1 first (D-FINE).
        one_class: All classes are taken as one (the proposals of Deformable DETR).
        focal: Alpha and gamma of the matcher's class cost; None where it is that of a softmax.
        averaged: The number of objects that losses are divided by is averaged over processes.
    """

    make: Callable[[], Any]
    names: tuple[str, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    auxiliary: str = ""
    clamp: bool = False
    one_class: bool = False
    focal: tuple[float, float] | None = None
    averaged: bool = False
    _made: dict[torch.device, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def criterion(self, device: torch.device) -> Any:
        """The library's criterion on a device, made once: its constants travel there only once."""
        if device not in self._made:
            made = self.make().to(device)
            if walks(made):
                made._get_source_permutation_idx = _places
            self._made[device] = made
        return self._made[device]

    def clamped(self, boxes: list[Tensor]) -> list[Tensor]:
        """Predicted boxes as the loss reads them."""
        return [b.clamp(min=0, max=1) for b in boxes] if self.clamp else boxes

    def targets(self, boxes: list[Tensor], labels: list[Tensor], image_sizes: ImageSizes) -> Labels:
        """Targets as the library wants them, see :func:`to_labels`."""
        labels = [torch.zeros_like(x) for x in labels] if self.one_class else labels
        return to_labels(boxes, labels, image_sizes)

    def matching_cost(self, logits: Tensor, boxes: Tensor, targets: Labels) -> Tensor:
        """The library's matching cost of queries and objects, for any number of layers at once.

        Args:
            logits: (R, K) of all queries of all images and layers.
            boxes: (R, 4) cxcywh.
            targets: Per image, see :func:`to_labels`; T objects altogether.

        Returns:
            (R, T); what is not finite is as bad as can be.
        """
        from transformers.image_transforms import center_to_corners_format as corners

        matcher, goal = self.criterion(logits.device).matcher, torch.cat([t["boxes"] for t in targets])
        overlap = generalized_iou(corners(boxes)[:, None], corners(goal))
        classes = class_cost(self.focal, logits, torch.cat([t["class_labels"] for t in targets]))
        cost = (
            matcher.bbox_cost * torch.cdist(boxes, goal, p=1) + matcher.class_cost * classes + matcher.giou_cost * -overlap
        )
        worst = torch.finfo(cost.dtype).max
        return torch.nan_to_num(cost, nan=worst, posinf=worst, neginf=worst)

    def divisor(self, count: float, device: torch.device) -> float:
        """What the library divides by for ``count`` objects: that number, at least 1."""
        if self.averaged and torch.distributed.is_available() and torch.distributed.is_initialized():
            count = float(mean_over_ranks(torch.full((), count, device=device)).item())
        return max(count, 1.0)


def class_cost(focal: tuple[float, float] | None, logits: Tensor, classes: Tensor) -> Tensor:
    """The library's (R, T) cost of the classes (T,) in view of scores (R, K); ``focal`` as in :class:`SetLoss`."""
    if focal is None:
        return -logits.softmax(-1)[:, classes]
    alpha, gamma = focal
    scores = logits.sigmoid()[:, classes]
    negative = (1 - alpha) * (scores**gamma) * (-(1 - scores + 1e-8).log())
    return alpha * ((1 - scores) ** gamma) * (-(scores + 1e-8).log()) - negative


def generalized_iou(ours: Tensor, others: Tensor) -> Tensor:
    """The library's GIoU of xyxy boxes that broadcast, (..., 4) and (..., 4) -> (...).

    The library first looks whether the boxes are boxes, and waits for the device to do so. Here a box that is none gives a value
    that is no number, which the engine reports with the name of its term. The order of the lines is the library's: gradients are
    summed in their reverse order.
    """
    inside, union = inside_and_union(ours, others)
    overlap = inside / union
    start, end = torch.min(ours[..., :2], others[..., :2]), torch.max(ours[..., 2:], others[..., 2:])
    sides = (end - start).clamp(min=0)
    whole = sides[..., 0] * sides[..., 1]
    return overlap - (whole - union) / whole


def inside_and_union(ours: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Areas that xyxy boxes share and cover, by the library's formula."""
    first, second = area(ours), area(others)
    start, end = torch.max(ours[..., :2], others[..., :2]), torch.min(ours[..., 2:], others[..., 2:])
    sides = (end - start).clamp(min=0)
    inside = sides[..., 0] * sides[..., 1]
    return inside, first + second - inside


def area(boxes: Tensor) -> Tensor:
    """(...) areas of xyxy boxes, never in half precision, as in the library."""
    boxes = boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


class JoinedPairs(list[tuple[Tensor, Tensor]]):
    """One layer's pairs as the library's losses walk over them: as if all objects were those of one image."""

    def __init__(self, pairs: Joined) -> None:
        super().__init__([(pairs.queries, pairs.objects)])
        self.joined = pairs


def walks(criterion: Any) -> bool:
    """True for the library's criteria, whose losses walk over images; :class:`kdflow.detectors.rt_loss.PairLoss` does not."""
    return hasattr(criterion, "_get_source_permutation_idx")


def _places(pairs: JoinedPairs) -> tuple[Tensor, Tensor]:
    """Image and query of every pair, for the library's losses."""
    return pairs.joined.images, pairs.joined.queries


@dataclass(frozen=True)
class Objects:
    """The objects of a batch as the library's losses read them.

    Attributes:
        counts: Objects per image.
        targets: All of them as those of one image.
    """

    counts: tuple[int, ...]
    targets: Labels

    @classmethod
    def of(cls, labels: Labels) -> Objects:
        """Of targets per image."""
        whole = {key: torch.cat([t[key] for t in labels]) for key in ("class_labels", "boxes")}
        return cls(tuple(len(t["class_labels"]) for t in labels), [whole])


def layer_terms(
    criterion: Any, outputs: Mapping[str, Tensor], objects: Objects, pairs: Sequence[tuple[Tensor, Tensor]], divisor: float
) -> Iterator[tuple[str, Tensor]]:
    """The library's loss terms of one layer on given pairs, unweighted, in its order."""
    found = JoinedPairs(joined(pairs, objects.counts))
    for loss in criterion.losses:
        if loss == "boxes":
            yield from box_terms(outputs["pred_boxes"], objects, found.joined, divisor).items()
        elif loss != "cardinality":  # a number for the library's log
            yield from criterion.get_loss(loss, outputs, objects.targets, found, divisor).items()


def box_terms(boxes: Tensor, objects: Objects, pairs: Joined, divisor: float) -> dict[str, Tensor]:
    """The library's box losses, pair by pair instead of as the diagonal of a table."""
    from transformers.image_transforms import center_to_corners_format as corners

    own, goal = boxes[pairs.images, pairs.queries], objects.targets[0]["boxes"][pairs.objects]
    distance = torch.nn.functional.l1_loss(own, goal, reduction="none").sum() / divisor
    missed = (1 - generalized_iou(corners(own), corners(goal))).sum() / divisor
    return {"loss_bbox": distance, "loss_giou": missed}


class Criterion(LossTerms):
    """The library's own set loss of some layers, on given pairs.

    Args:
        loss: Which loss.
        layers: Number of layers.
        suffix: Behind the names of the terms.
    """

    def __init__(self, loss: SetLoss, layers: int = 1, suffix: str = "") -> None:
        earlier = [loss.auxiliary.format(i) for i in range(layers - 1)] if loss.auxiliary else []
        super().__init__()
        self.names = tuple(f"{name}{end}" for end in (suffix, *earlier) for name in loss.names)
        self.loss, self.suffix = loss, suffix

    def forward(
        self,
        logits: list[Tensor],
        boxes: list[Tensor],
        pairs: Pairs,
        target_boxes: list[Tensor],
        target_labels: list[Tensor],
        image_sizes: ImageSizes,
        union: Union | None = None,
    ) -> dict[str, Any]:
        """Weighted scalar per loss term, and ``total``, their sum; boxes are compared on ``union`` where it is given."""
        labels = self.loss.targets(target_boxes, target_labels, image_sizes)
        return self.terms(logits, boxes, pairs, labels, union=union)

    def terms(
        self,
        logits: list[Tensor],
        boxes: list[Tensor],
        pairs: Pairs,
        labels: Labels,
        groups: int = 1,
        union: Union | None = None,
    ) -> dict[str, Any]:
        """What the library's criterion says of these predictions, whose queries belong to ``groups`` groups."""
        criterion, boxes, objects = self.loss.criterion(logits[0].device), self.loss.clamped(boxes), Objects.of(labels)
        divisor = self.loss.divisor(float(sum(objects.counts) * groups), logits[0].device)
        earlier = range(len(logits) - 1) if self.loss.auxiliary else ()
        losses: dict[str, Tensor] = {}
        for layer, end in [(-1, ""), *((i, self.loss.auxiliary.format(i)) for i in earlier)]:
            outputs = {"logits": logits[layer], "pred_boxes": boxes[layer]}
            if not walks(criterion):
                losses |= criterion.layer(outputs, labels, pairs[layer], divisor, end, union and union.pair)
                continue
            for name, value in layer_terms(criterion, outputs, objects, pairs[layer], divisor):
                if name in self.loss.names:
                    losses[f"{name}{end}"] = value * self.loss.weights[name]
        # Terms that the library leaves out are 0; the total is in its order.
        terms = {f"{name}{self.suffix}": value for name, value in losses.items()}
        total = sum(terms.values())
        return {**{name: terms.get(name, total * 0) for name in self.names}, "total": total}

    def infer(self, **values: Any) -> dict[str, Any]:
        """Scalars."""
        terms = super().infer(**values)
        return {**terms, "total": next(iter(terms.values()))}


def masked_loss(
    config: Any,
    auxiliary: bool,
    make: Callable[[Any], Any],
    class_weight: float = 1,
    focal: tuple[float, float] | None = (0.25, 2.0),
    averaged: bool = False,
) -> SetLoss:
    """The set loss of a transformer that knows the padding.

    Args:
        config: The library's configuration.
        auxiliary: Losses on every decoder layer, not on the last alone.
        make: Makes the library's criterion of the configuration.
        class_weight: Factor of the class term; the library's is 1.
        focal: See :class:`SetLoss`; the default is what the library's matcher of sigmoid scores has.
        averaged: See :class:`SetLoss`.
    """
    boxes = {"loss_bbox": config.bbox_loss_coefficient, "loss_giou": config.giou_loss_coefficient}
    weights = {"loss_ce": class_weight, **boxes}
    end = "_{}" if auxiliary else ""
    return SetLoss(partial(make, config), tuple(weights), weights, end, focal=focal, averaged=averaged)

