"""The criterion of RT-DETR, D-FINE and DEIMv2 on given pairs, with the library's numbers and without its waits.

The library's own reads the host some 40 to 300 times a step: box checks, boolean masks, ``equal``, numbers of objects. Here the
sizes of all that is gathered are known beforehand, so that nothing is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from kdflow.detectors.hf_parts import Labels
from kdflow.functional.boxes import giou, iou

TEMPERATURE = 5
Own = list[tuple[Tensor, Tensor]]
"""Pairs of one layer: per image (query, object)."""


@dataclass
class Union:
    """Pairs of several layers as those of one.

    Attributes:
        pairs: Per image (query, object) on the device; a query has one object.
    """

    pairs: Own

    @property
    def pair(self) -> tuple[Own, float]:
        """The pairs, and their number, at least 1."""
        return self.pairs, object_count([queries for queries, _ in self.pairs])


class PairLoss:
    """The weighted terms of layers; what :class:`kdflow.detectors.hf_loss.SetLoss` and the stages ask of a criterion.

    Args:
        config: The library's configuration.
        scores: How classes are compared: varifocal, or matching-aware.
    """

    def __init__(self, config: Any, scores: Literal["vfl", "mal"]) -> None:
        from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher, RTDetrLoss

        self.config, self.kind, self.matcher = config, scores, RTDetrHungarianMatcher(config)
        self.get_cdn_matched_indices = RTDetrLoss.get_cdn_matched_indices

    def to(self, device: torch.device) -> PairLoss:
        """Itself: it holds no tensors."""
        del device
        return self

    def __call__(self, outputs: Any, targets: Labels) -> dict[str, Tensor]:
        """Terms of ``outputs`` and its ``auxiliary_outputs``, matched by ``matcher`` in this order."""
        divisor, layers = object_count([t["class_labels"] for t in targets]), outputs.get("auxiliary_outputs", [])
        terms = self.layer(outputs, targets, self.matcher(outputs, targets), divisor)
        for i, layer in enumerate(layers):
            terms |= self.layer(layer, targets, self.matcher(layer, targets), divisor, f"_aux_{i}")
        return terms

    def layer(
        self,
        outputs: Any,
        targets: Labels,
        pairs: Own,
        divisor: float,
        suffix: str = "",
        joined: tuple[Own, float] | None = None,
    ) -> dict[str, Tensor]:
        """Weighted terms of one layer.

        Args:
            outputs: ``logits`` (B, N, K), ``pred_boxes`` (B, N, 4), and of D-FINE's layers the distributions.
            targets: See :func:`kdflow.detectors.hf_parts.to_labels`.
            pairs: Of the layer.
            divisor: The number of objects.
            suffix: Behind the names of the terms.
            joined: Pairs and divisor for all but the scores, where they are others.
        """
        terms = self.scores(outputs, targets, pairs, divisor)
        terms |= self.boxes(outputs, targets, *(joined or (pairs, divisor)))
        return {f"{name}{suffix}": value * getattr(self.config, f"weight_{name}") for name, value in terms.items()}

    def scores(self, outputs: Any, targets: Labels, pairs: Own, divisor: float) -> dict[str, Tensor]:
        """Cross-entropy whose target is the overlap with the object (matching-aware: to the power gamma)."""
        at, found, goal = paired(outputs, targets, pairs)
        logits, gamma, overlaps = outputs["logits"], self.config.focal_loss_gamma, iou(found, goal, eps=0).detach()
        classes = torch.cat([t["class_labels"][own] for t, (_, own) in zip(targets, pairs)])
        place = (*at, classes)
        hot = torch.zeros_like(logits, dtype=torch.long)
        hot[place] = torch.ones_like(classes)
        target = torch.zeros_like(logits)
        target[place] = overlaps.to(target.dtype)
        push = logits.sigmoid().detach().pow(gamma)
        if self.kind == "vfl":
            weight = (self.config.focal_loss_alpha * push * (1 - hot) + target).to(logits.dtype)
        else:
            alpha = self.config.mal_alpha
            weight, target = (push if alpha is None else alpha * push) * (1 - hot) + hot, target.pow(gamma)
        loss = functional.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="none")
        return {f"loss_{self.kind}": loss.mean(1).sum() * logits.shape[1] / divisor}

    def boxes(self, outputs: Any, targets: Labels, pairs: Own, divisor: float) -> dict[str, Tensor]:
        """Distances and overlaps of paired boxes, and of their edge distributions where there are any."""
        at, found, goal = paired(outputs, targets, pairs)
        near = torch.cat([t["boxes"][own] for t, (_, own) in zip(targets, pairs)])
        distance = functional.l1_loss(outputs["pred_boxes"][at], near, reduction="none").sum()
        terms = {"loss_bbox": distance / divisor, "loss_giou": (1 - giou(found, goal, eps=0)).sum() / divisor}
        if "pred_corners" not in outputs:
            return terms
        return terms | self.local(outputs, at, goal, iou(found, goal, eps=0), divisor)

    def local(
        self, outputs: Any, at: tuple[Tensor, Tensor], goal: Tensor, overlaps: Tensor, divisor: float
    ) -> dict[str, Tensor]:
        """Fine-grained localisation of the pairs, and the last layer's distributions as a teacher of all queries."""
        bins = self.config.max_num_bins
        edges = outputs["pred_corners"][at].reshape(-1, bins + 1)
        left, below, above = edge_targets(outputs["ref_points"][at].detach(), goal, self.config)
        weight = overlaps.detach().repeat_interleave(4).float()
        loss = functional.cross_entropy(edges, left, reduction="none") * below
        loss = (loss + functional.cross_entropy(edges, left + 1, reduction="none") * above) * weight
        return {"loss_fgl": loss.sum() / divisor, "loss_ddf": self.taught(outputs, at, overlaps.detach())}

    def taught(self, outputs: Any, at: tuple[Tensor, Tensor], overlaps: Tensor) -> Tensor:
        """Divergence from the last layer's distributions: means of paired and of other queries, by the roots of their numbers."""
        own, last = outputs["pred_corners"], outputs["teacher_corners"]
        if own is last:
            return own.sum() * 0
        (batch, queries), bins = own.shape[:2], self.config.max_num_bins + 1
        weight = outputs["teacher_logits"].detach().sigmoid().max(-1)[0]
        weight[at] = overlaps.to(weight.dtype)
        taken = torch.zeros_like(weight, dtype=torch.long)
        taken[at] = torch.ones_like(at[0])
        own, last = own.reshape(-1, bins), last.reshape(-1, bins)
        log = functional.log_softmax(own / TEMPERATURE, dim=1)
        goal = functional.softmax(last.detach() / TEMPERATURE, dim=1)
        apart = functional.kl_div(log, goal, reduction="none").sum(-1)
        loss = (weight.unsqueeze(-1).repeat(1, 1, 4).reshape(-1) * TEMPERATURE**2 * apart).view(-1, 4)
        order = taken.flatten().argsort(stable=True)  # the others first; a query has one object at most
        parts = loss[order].split([batch * queries - len(at[0]), len(at[0])])
        others, matched = (part.mean() if len(part) else part.sum() for part in parts)
        count = 4 * taken.sum()
        roots = (count * (1 / batch)) ** 0.5, ((loss.numel() - count) * (1 / batch)) ** 0.5
        joined = (matched * roots[0] + others * roots[1]) / (roots[0] + roots[1])
        return torch.where((own == last).all(), own.sum() * 0, joined)


def object_count(labels: list[Tensor]) -> float:
    """Objects in the batch, at least 1: the library's divisor."""
    return float(max(sum(map(len, labels)), 1))


def paired(outputs: Any, targets: Labels, pairs: Own) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Image and query of each pair, and xyxy boxes of query and object, (P, 4) in full precision."""
    from transformers.image_transforms import center_to_corners_format as corners

    at = (torch.cat([torch.full_like(q, i) for i, (q, _) in enumerate(pairs)]), torch.cat([q for q, _ in pairs]))
    found = outputs["pred_boxes"][at]
    goal = torch.cat([t["boxes"][own] for t, (_, own) in zip(targets, pairs)])
    full = torch.promote_types(found.dtype, torch.float32)
    return at, corners(found).to(full), corners(goal).to(full)


def edge_targets(starts: Tensor, goal: Tensor, config: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Where the edges of an object lie among the bins of a box.

    Args:
        starts: (P, 4) cxcywh boxes that the distributions refine.
        goal: (P, 4) xyxy boxes of the objects, in the same unit.
        config: The library's: bins, curvature and reach of their positions.

    Returns:
        The bin below each edge (4 P,), and the shares of that bin and of the next.
    """
    from transformers.loss.loss_d_fine import weighting_function

    bins, scale = config.max_num_bins, abs(config.reg_scale)
    x, y, width, height = starts.unbind(-1)
    near_x, near_y, far_x, far_y = goal.unbind(-1)
    across, down = width / scale + 1e-16, height / scale + 1e-16
    distances = [(x - near_x) / across, (y - near_y) / down, (far_x - x) / across, (far_y - y) / down]
    edge = (torch.stack(distances, -1) - 0.5 * scale).reshape(-1)
    places = weighting_function(bins, edge.new_full((1,), config.up), config.reg_scale)
    left = (places <= edge.unsqueeze(1)).sum(1) - 1
    inside = left.clamp(0, bins - 1)
    below, above = (edge - places[inside]).abs(), (places[inside + 1] - edge).abs()
    share = torch.where(left < 0, 0.0, torch.where(left >= bins, 1.0, below / (below + above)))
    return inside, 1.0 - share, share
