"""Query groups of LW-DETR and RF-DETR.

In training the library runs several groups of queries, each with its own proposals, and sums their losses; in evaluation it runs
the first alone. Ports are those of the first group, which does not depend on the others; the ``per_group`` ports hold all groups
one after the other. Stages hand the other groups on as :class:`Groups`, beside the value of the first: a stage that a method runs
again on other values than the detector's own leaves the other groups out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdflow.detectors.hf_loss import Criterion, Match, Pairs
from kdflow.ports import ImageSizes


@dataclass
class Groups:
    """A value of all query groups.

    Attributes:
        first: The same of the first group, by which a stage knows that it was given the detector's own.
        every: All groups along the queries, the first group first.
        count: Number of groups.
    """

    first: Any
    every: Any
    count: int


class GroupMatch(Match):
    """The assignment of each group's queries to all objects."""

    def costs(  # type: ignore[override]
        self, logits: list[Tensor], boxes: list[Tensor], groups: Groups, **targets: Any
    ) -> list[Tensor]:
        """Per layer and group."""
        count = _count(logits, groups)
        every = (logits, boxes) if count == 1 else groups.every
        scores, places = ([part for x in values for part in x.chunk(count, 1)] for values in every)
        return super().costs(scores, places, **targets)

    def found(  # type: ignore[override]
        self, pairs: Pairs, logits: list[Tensor], groups: Groups, **values: Any
    ) -> dict[str, Any]:
        """``indices`` of the first group, ``further`` of the others, ``every`` of all; queries count on over the groups."""
        del values
        count, number = _count(logits, groups), logits[-1].shape[1]
        layers = [pairs[i : i + count] for i in range(0, len(pairs), count)]
        return {
            "indices": [layer[0] for layer in layers],
            "further": [joined(layer, number, 1) for layer in layers] if count > 1 else None,
            "every": [joined(layer, number) for layer in layers],
        }

    def infer(self, logits: list[Tensor], target_labels: list[Tensor], **rest: Any) -> dict[str, Any]:
        """See :class:`Match`; shapes are inferred as in evaluation, where there is one group."""
        found = super().infer(logits, target_labels)["indices"]
        return {"indices": found, "further": None, "every": found}


def _count(logits: list[Tensor], groups: Groups) -> int:
    """Groups that are matched: all on own predictions, the given one on others."""
    return groups.count if groups.first is logits[-1] else 1


def joined(groups: Pairs, number: int, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Per image the pairs of all groups, of ``number`` queries each, from group ``start`` on."""
    chosen = [
        [(queries + i * number, objects) for queries, objects in pairs] for i, pairs in enumerate(groups) if i >= start
    ]
    return [(torch.cat([p[0] for p in image]), torch.cat([p[1] for p in image])) for image in zip(*chosen)]


class GroupCriterion(Criterion):
    """The library's set loss over all groups on own predictions, over the one given group on others."""

    def forward(  # type: ignore[override]
        self,
        logits: list[Tensor],
        boxes: list[Tensor],
        pairs: Pairs,
        further: Pairs | None,
        groups: Groups,
        target_boxes: list[Tensor],
        target_labels: list[Tensor],
        image_sizes: ImageSizes,
    ) -> dict[str, Any]:
        """Weighted scalar per loss term, and ``total``; other pairs than the own replace those of the first group."""
        labels = self.loss.targets(target_boxes, target_labels, image_sizes)
        count = 1
        if groups.first is logits[-1] and further is not None:
            count = groups.count
            logits, boxes = groups.every
            pairs = [
                [(torch.cat((q, r)), torch.cat((t, u))) for (q, t), (r, u) in zip(first, others)]
                for first, others in zip(pairs, further)
            ]
        return self.terms(logits, boxes, pairs, labels, count)
