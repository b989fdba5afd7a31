"""One matching for all layers, as DEIMv2 has it ("dense one-to-one").

Boxes and edge distributions are compared on the union of all layers' pairs, scores on a layer's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.detectors.d_fine_stages import LayerLoss, library_layers
from kdflow.detectors.hf_loss import Criterion, Pairs
from kdflow.detectors.rt_loss import Own, object_count

TERMS = ("loss_mal", "loss_bbox", "loss_giou")


@dataclass
class Joined:
    """Pairs of all layers as those of one.

    Attributes:
        pairs: Per image (query, object) on the device; a query has one object.
    """

    pairs: Own

    @property
    def pair(self) -> tuple[Own, float]:
        """The pairs, and their number, at least 1."""
        return self.pairs, object_count([queries for queries, _ in self.pairs])


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


class LastLoss(Criterion):
    """Terms of one set of predictions: the last layer's, or those of the encoder's tokens."""

    def forward(self, union: Joined | None = None, **values: Any) -> dict[str, Any]:  # type: ignore[override]
        """See :class:`kdflow.detectors.hf_loss.Criterion`; ``union`` are the pairs that boxes are compared on."""
        labels = self.loss.targets(*(values[name] for name in ("target_boxes", "target_labels", "image_sizes")))
        outputs = {"logits": values["logits"][-1], "pred_boxes": self.loss.clamped(values["boxes"])[-1]}
        count = object_count(values["target_labels"])
        terms = self.loss.make().layer(outputs, labels, values["pairs"][-1], count, joined=union and union.pair)
        return self.weighted(terms)


class EarlierLoss(LayerLoss):
    """Terms of the decoder's earlier layers, in D-FINE's pairing of predictions and distributions."""

    def forward(self, union: Joined | None = None, **values: Any) -> dict[str, Any]:  # type: ignore[override]
        """See :class:`kdflow.detectors.d_fine_stages.LayerLoss`; ``union`` are the pairs that boxes are compared on."""
        labels = self.loss.targets(*(values[name] for name in ("target_boxes", "target_labels", "image_sizes")))
        found = {name: values[name] for name in ("first", "logits", "boxes", "corners", "starts")}
        layers = library_layers(**found, count=len(found["logits"]) - 1)
        criterion, count = self.loss.make(), object_count(values["target_labels"])
        terms: dict[str, Any] = {}
        for i, (outputs, own) in enumerate(zip(layers, [*values["first_pairs"], *values["pairs"]])):
            terms |= criterion.layer(outputs, labels, own, count, f"_aux_{i}", union and union.pair)
        return terms
