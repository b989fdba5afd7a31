"""DEIMv2's criterion on given pairs, with the library's numbers and without its waits.

The library reads the host some 300 times a step (box checks, boolean masks, ``equal``, two reads per pair of the union). Here the
sizes of all that is gathered are known beforehand, and nothing is read but the pairs, once, to join them over the layers.

Boxes and edge distributions are compared on the union of all layers' pairs ("dense one-to-one"), scores on a layer's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdflow.detectors.d_fine_stages import EDGE_TERMS, LayerLoss, library_layers
from kdflow.detectors.hf_loss import Criterion, Pairs
from kdflow.detectors.hf_parts import Labels
from kdflow.detectors.rt_stages import object_count
from kdflow.functional.boxes import giou, iou

TERMS = ("loss_mal", "loss_bbox", "loss_giou")
TEMPERATURE = 5
Own = list[tuple[Tensor, Tensor]]
"""Pairs of one layer."""


class PairLoss:
    """The weighted terms of a layer; what :class:`kdflow.detectors.hf_loss.SetLoss` and the stages ask of a criterion.

    Args:
        config: The library's configuration.
    """

    losses = ("mal", "boxes", "local")

    def __init__(self, config: Any) -> None:
        from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher, RTDetrLoss

        self.config, self.matcher = config, RTDetrHungarianMatcher(config)
        self.weight_dict = {name: getattr(config, f"weight_{name}") for name in (*TERMS, *EDGE_TERMS)}
        self.get_cdn_matched_indices = RTDetrLoss.get_cdn_matched_indices

    def to(self, device: torch.device) -> PairLoss:
        """Itself: it holds no tensors."""
        del device
        return self

    def get_loss(self, loss: str, outputs: Any, targets: Labels, pairs: Own, divisor: float) -> dict[str, Tensor]:
        """Terms of one of ``losses``; see :meth:`scores`, :meth:`boxes`, :meth:`local`."""
        from transformers.image_transforms import center_to_corners_format as corners

        at = (torch.cat([torch.full_like(q, i) for i, (q, _) in enumerate(pairs)]), torch.cat([q for q, _ in pairs]))
        found = outputs["pred_boxes"][at]
        goal = torch.cat([t["boxes"][own] for t, (_, own) in zip(targets, pairs)])
        both = corners(found).float(), corners(goal).float()
        if loss == "mal":
            classes = torch.cat([t["class_labels"][own] for t, (_, own) in zip(targets, pairs)])
            return {"loss_mal": self.scores(outputs["logits"], at, classes, iou(*both, eps=0).detach()) / divisor}
        if loss == "boxes":
            distance = functional.l1_loss(found, goal, reduction="none").sum()
            return {"loss_bbox": distance / divisor, "loss_giou": (1 - giou(*both, eps=0)).sum() / divisor}
        return self.local(outputs, at, both[1], iou(*both, eps=0), divisor) if "pred_corners" in outputs else {}

    def scores(self, logits: Tensor, at: tuple[Tensor, Tensor], classes: Tensor, overlaps: Tensor) -> Tensor:
        """Matching-aware loss: cross-entropy with the overlap to the power gamma as target, sum over queries and classes.

        Args:
            logits: (B, N, K).
            at: Image and query of each of P pairs.
            classes: (P,) of the objects.
            overlaps: (P,) IoU with the object.
        """
        gamma, alpha = self.config.focal_loss_gamma, self.config.mal_alpha
        place = (*at, classes)
        hot = torch.zeros_like(logits, dtype=torch.long)
        hot[place] = torch.ones_like(classes)
        target = torch.zeros_like(logits)
        target[place] = overlaps.to(target.dtype)
        push = logits.sigmoid().detach().pow(gamma)
        weight = (push if alpha is None else alpha * push) * (1 - hot) + hot
        loss = functional.binary_cross_entropy_with_logits(logits, target.pow(gamma), weight=weight, reduction="none")
        return loss.mean(1).sum() * logits.shape[1]

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
        log, goal = (
            functional.log_softmax(own / TEMPERATURE, dim=1),
            functional.softmax(last.detach() / TEMPERATURE, dim=1),
        )
        apart = functional.kl_div(log, goal, reduction="none").sum(-1)
        loss = (weight.unsqueeze(-1).repeat(1, 1, 4).reshape(-1) * TEMPERATURE**2 * apart).view(-1, 4)
        order = taken.flatten().argsort(stable=True)  # the others first; a query has one object at most
        parts = loss[order].split([batch * queries - len(at[0]), len(at[0])])
        others, paired = (part.mean() if len(part) else part.sum() for part in parts)
        count = 4 * taken.sum()
        roots = (count * (1 / batch)) ** 0.5, ((loss.numel() - count) * (1 / batch)) ** 0.5
        joined = (paired * roots[0] + others * roots[1]) / (roots[0] + roots[1])
        return torch.where((own == last).all(), own.sum() * 0, joined)


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


@dataclass
class Joined:
    """Pairs of all layers as those of one.

    Attributes:
        pairs: Per image (query, object) on the device; a query has one object.
    """

    pairs: Own

    @property
    def divisor(self) -> float:
        """Their number, at least 1."""
        return float(max(sum(len(queries) for queries, _ in self.pairs), 1))


class Union(nn.Module):
    """Joins the pairs of all layers: of a query's objects, the one that most layers chose.

    Args:
        decoder: The library's decoder; in evaluation mode it has but its last layer to join with the encoder's tokens.
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self._decoder = (decoder,)  # in a tuple, so that this stage owns no parameters

    def forward(self, pairs: Pairs, first: Pairs, proposals: Pairs) -> dict[str, Any]:
        """``indices``: :class:`Joined`. The library leaves out the last layer but one."""
        earlier = [*first, *pairs[:-2]] if self._decoder[0].training else []
        layers = [pairs[-1], *earlier, *proposals]
        images = [torch.cat([torch.stack(layer[i], 1) for layer in layers]) for i in range(len(pairs[-1]))]
        on_host = torch.cat(images).cpu().split([len(image) for image in images])  # the one wait
        joined = [union_of(image) for image in on_host]
        moved = torch.cat(joined).to(images[0].device).split([len(image) for image in joined])
        return {"indices": Joined([(image[:, 0], image[:, 1]) for image in moved])}

    def infer(self, pairs: Pairs, **others: Pairs) -> dict[str, Any]:
        """How many there will be is not known."""
        del others
        return {"indices": Joined(pairs[-1])}


def union_of(pairs: Tensor) -> Tensor:
    """Distinct pairs (n, 2) of one image, on the host: one per query, the commonest, in the library's order."""
    distinct, counts = torch.unique(pairs, return_counts=True, dim=0)
    chosen: dict[int, int] = {}
    for query, target in distinct[counts.argsort(descending=True)].tolist():
        chosen.setdefault(query, target)
    return torch.tensor([*chosen.items()], dtype=torch.long).view(-1, 2)


def layer_terms(
    criterion: PairLoss, outputs: Any, targets: Labels, own: Own, union: Joined | None, suffix: str = ""
) -> dict[str, Tensor]:
    """Weighted terms of one layer: scores on its own pairs, the rest on the union where there is one."""
    alone = own, object_count([t["class_labels"] for t in targets])
    joined = alone if union is None else (union.pairs, union.divisor)
    terms: dict[str, Tensor] = {}
    for loss in criterion.losses:
        values = criterion.get_loss(loss, outputs, targets, *(alone if loss == "mal" else joined))
        terms |= {f"{name}{suffix}": value * criterion.weight_dict[name] for name, value in values.items()}
    return terms


class LastLoss(Criterion):
    """Terms of one set of predictions: the last layer's, or those of the encoder's tokens."""

    def forward(self, union: Joined | None = None, **values: Any) -> dict[str, Any]:  # type: ignore[override]
        """See :class:`kdflow.detectors.hf_loss.Criterion`; ``union`` are the pairs that boxes are compared on."""
        labels = self.loss.targets(*(values[name] for name in ("target_boxes", "target_labels", "image_sizes")))
        outputs = {"logits": values["logits"][-1], "pred_boxes": self.loss.clamped(values["boxes"])[-1]}
        return self.weighted(layer_terms(self.loss.make(), outputs, labels, values["pairs"][-1], union))


class EarlierLoss(LayerLoss):
    """Terms of the decoder's earlier layers, in D-FINE's pairing of predictions and distributions."""

    def forward(self, union: Joined | None = None, **values: Any) -> dict[str, Any]:  # type: ignore[override]
        """See :class:`kdflow.detectors.d_fine_stages.LayerLoss`; ``union`` are the pairs that boxes are compared on."""
        labels = self.loss.targets(*(values[name] for name in ("target_boxes", "target_labels", "image_sizes")))
        found = {name: values[name] for name in ("first", "logits", "boxes", "corners", "starts")}
        layers = library_layers(**found, count=len(found["logits"]) - 1)
        terms: dict[str, Any] = {}
        for i, (outputs, own) in enumerate(zip(layers, [*values["first_pairs"], *values["pairs"]])):
            terms |= layer_terms(self.loss.make(), outputs, labels, own, union, f"_aux_{i}")
        return terms
