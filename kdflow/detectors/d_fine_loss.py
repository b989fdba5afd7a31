"""D-FINE's losses on edge distributions, by the library's formulas and bits, without asking the device how many places there are.

The library selects matched and unmatched queries by masks, whose sizes the host has to wait for. The pairs of a layer are known,
so are these sizes; the order of the selected rows, and with it every sum, stays the library's.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdflow.detectors.hf_loss import inside_and_union

TEMPERATURE = 5


@cache
def edge_loss() -> Any:
    """The library's criterion with the losses of this file."""
    from transformers.loss.loss_d_fine import DFineLoss

    return type("EdgeLoss", (EdgeTerms, DFineLoss), {})


class EdgeTerms:
    """The library's ``loss_local`` for pairs that are known on the host."""

    max_num_bins: int
    reg_scale: float
    up: Tensor
    _get_source_permutation_idx: Any
    unimodal_distribution_focal_loss: Any

    def loss_local(self, outputs: Any, targets: Any, indices: Any, num_boxes: float, T: int = TEMPERATURE) -> Any:  # noqa: N803
        """Fine-grained localisation, and distillation from the last layer to this one.

        Args:
            outputs: ``pred_corners`` and ``teacher_corners`` (B, N, 4 * (bins + 1)), ``ref_points`` and ``pred_boxes`` (B, N, 4)
                cxcywh, ``teacher_logits`` (B, N, K).
            targets: The objects as those of one image.
            indices: :class:`kdflow.detectors.hf_loss.JoinedPairs`; each query is paired at most once.
            num_boxes: Divisor of the first term.
            T: Temperature of the second.

        Returns:
            ``loss_fgl`` and ``loss_ddf``; the latter is no number where a query was paired twice.
        """
        from transformers.image_transforms import center_to_corners_format as corners_of

        if "pred_corners" not in outputs:
            return {}
        place = self._get_source_permutation_idx(indices)
        goal = corners_of(targets[0]["boxes"][indices.joined.objects])
        overlap = paired_iou(corners_of(outputs["pred_boxes"][place]), goal)
        return {
            "loss_fgl": self.localisation(outputs, place, goal, overlap, num_boxes),
            "loss_ddf": self.distillation(outputs, place, overlap, T),
        }

    def localisation(
        self, outputs: Any, place: tuple[Tensor, Tensor], goal: Tensor, overlap: Tensor, divisor: float
    ) -> Tensor:
        """Cross entropy of the two bins around each true edge, weighted by the IoU of the pair."""
        edges = outputs["pred_corners"][place].reshape(-1, self.max_num_bins + 1)
        with torch.no_grad():
            start = outputs["ref_points"][place].detach()
            bins, right, left = self.edge_targets(edge_distances(start, goal, self.reg_scale).reshape(-1))
        weight = overlap.unsqueeze(-1).repeat(1, 1, 4).reshape(-1).detach()
        return self.unimodal_distribution_focal_loss(edges, bins, right, left, weight, avg_factor=divisor)

    def edge_targets(self, distances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Left bin of each distance, and the weights of right and left bin, (M,) each; beyond the bins the outermost one."""
        from transformers.loss.loss_d_fine import weighting_function

        values = weighting_function(self.max_num_bins, self.up, self.reg_scale)
        index = (values.unsqueeze(0) - distances.unsqueeze(1) <= 0).sum(1) - 1
        below, above = index < 0, index >= self.max_num_bins
        within = index.clamp(0, self.max_num_bins - 1)
        lower, upper = values[within], values[within + 1]
        before, after = (distances - lower).abs(), (upper - distances).abs()
        right = before / (before + after)
        left = torch.where(below, 1.0, torch.where(above, 0.0, 1.0 - right))
        right = torch.where(below, 0.0, torch.where(above, 1.0, right))
        bins = torch.where(below, 0.0, torch.where(above, self.max_num_bins - 0.1, index.float()))
        return bins.clamp(min=0, max=self.max_num_bins - 0.1), right, left

    def distillation(self, outputs: Any, place: tuple[Tensor, Tensor], overlap: Tensor, temperature: int) -> Tensor:
        """KL divergence from the last layer's distributions, means over matched and unmatched queries weighed by their roots."""
        own = outputs["pred_corners"].reshape(-1, self.max_num_bins + 1)
        last = outputs["teacher_corners"].reshape(-1, self.max_num_bins + 1)
        if outputs["pred_corners"] is outputs["teacher_corners"]:
            return own.sum() * 0
        weight = outputs["teacher_logits"].detach().sigmoid().max(dim=-1)[0]
        chosen = torch.zeros_like(weight, dtype=torch.bool)
        chosen[place] = torch.ones_like(overlap, dtype=torch.bool)
        weight[place] = overlap.detach().to(weight.dtype)
        weight = weight.unsqueeze(-1).repeat(1, 1, 4).reshape(-1)
        divergence = nn.KLDivLoss(reduction="none")(
            functional.log_softmax(own / temperature, dim=1), functional.softmax(last.detach() / temperature, dim=1)
        ).sum(-1)
        terms = weight * temperature**2 * divergence
        matched, others = self.means(terms, chosen, len(overlap))
        each = chosen.unsqueeze(-1).repeat(1, 1, 4).reshape(-1)
        scale = 1 / outputs["pred_boxes"].shape[0]
        many, rest = (each.sum() * scale) ** 0.5, ((~each).sum() * scale) ** 0.5
        value = (matched * many + others * rest) / (many + rest)
        value = torch.where(chosen.sum() == len(overlap), value, torch.nan)
        return torch.where((own == last).all(), 0.0, value)

    @staticmethod
    def means(terms: Tensor, chosen: Tensor, count: int) -> tuple[Tensor | float, Tensor | float]:
        """Means of the terms (B * N * 4,) of the ``count`` chosen (B, N) queries and of the others, summed in their order."""
        # A stable sort puts the others first and leaves the order within both as it is.
        order = chosen.flatten().to(torch.uint8).sort(stable=True).indices
        rows = terms.unflatten(0, (-1, 4))[order]
        others, matched = rows.split([len(order) - count, count])
        return tuple(part.flatten().mean() if len(part) else 0.0 for part in (matched, others))  # type: ignore[return-value]


def edge_distances(points: Tensor, boxes: Tensor, scale: float) -> Tensor:
    """Distances (P, 4) of left, top, right and bottom edge of xyxy ``boxes`` from those of cxcywh ``points``, in their sides."""
    scale = abs(scale)
    width, height = points[..., 2] / scale + 1e-16, points[..., 3] / scale + 1e-16
    x, y = points[:, 0], points[:, 1]
    ends = (x - boxes[:, 0]) / width, (y - boxes[:, 1]) / height, (boxes[:, 2] - x) / width, (boxes[:, 3] - y) / height
    return torch.stack([end - 0.5 * scale for end in ends], -1)


def paired_iou(ours: Tensor, others: Tensor) -> Tensor:
    """(P,) IoU of xyxy boxes in pairs, by the library's formula."""
    inside, union = inside_and_union(ours, others)
    return inside / union
