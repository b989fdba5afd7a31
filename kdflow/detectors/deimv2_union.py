"""One matching for all layers, as DEIMv2 has it ("dense one-to-one").

Boxes and edge distributions are compared on the union of all layers' pairs, scores on a layer's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdflow.detectors.hf_loss import Pairs
from kdflow.detectors.rt_loss import Union

TERMS = ("loss_mal", "loss_bbox", "loss_giou")


class Unite(nn.Module):
    """Joins the pairs of all layers: of a query's objects, the one that most layers chose.

    Args:
        decoder: The library's decoder; in evaluation mode it has but its last layer to join with the encoder's tokens.
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self._decoder = (decoder,)  # in a tuple, so that this stage owns no parameters

    def forward(self, pairs: Pairs, first: Pairs, proposals: Pairs) -> dict[str, Any]:
        """``indices``: :class:`kdflow.detectors.rt_loss.Union`. The library leaves out the last layer but one."""
        earlier = [*first, *pairs[:-2]] if self._decoder[0].training else []
        layers = [pairs[-1], *earlier, *proposals]
        images = [torch.cat([torch.stack(layer[i], 1) for layer in layers]) for i in range(len(pairs[-1]))]
        on_host = torch.cat(images).cpu().split([len(image) for image in images])  # the one wait
        joined = [union_of(image) for image in on_host]
        moved = torch.cat(joined).to(images[0].device).split([len(image) for image in joined])
        return {"indices": Union([(image[:, 0], image[:, 1]) for image in moved])}

    def infer(self, pairs: Pairs, **others: Pairs) -> dict[str, Any]:
        """How many there will be is not known."""
        del others
        return {"indices": Union(pairs[-1])}


def union_of(pairs: Tensor) -> Tensor:
    """Distinct pairs (n, 2) of one image, on the host: one per query, the commonest, in the library's order."""
    distinct, counts = torch.unique(pairs, return_counts=True, dim=0)
    chosen: dict[int, int] = {}
    for query, target in distinct[counts.argsort(descending=True)].tolist():
        chosen.setdefault(query, target)
    return torch.tensor([*chosen.items()], dtype=torch.long).view(-1, 2)
