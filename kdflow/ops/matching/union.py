"""All pairs that several matchings found."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdflow.kinds import Pairs
from kdflow.operation import op


def _infer(pairs: list[Any]) -> Any:
    """As many pairs as one matching has."""
    return [pairs[0][0]]


@op("matching.union", no_grad=True, infer=_infer)
def union(pairs: list[Pairs]) -> Pairs:
    """The pairs of all layers of all matchings together, as one layer: a query keeps the object that most of them gave it.

    Several queries may share an object; among equally frequent objects the one with the smallest number is kept. Source: D-FINE
    (arXiv 2410.13842), whose union set supervises every layer.

    Args:
        pairs: Matchings, each per layer and image (query index, object index), such as ``student.match.indices``.
    """
    layers = [layer for matching in pairs for layer in matching]
    return [[_most_voted([layer[image] for layer in layers]) for image in range(len(layers[0]))]]


def _most_voted(found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Pairs of one image, by query."""
    both = torch.cat([torch.stack([queries, objects.to(queries.device)], 1) for queries, objects in found])
    if len(both) == 0:
        return both[:, 0], both[:, 1]
    different, votes = torch.unique(both, dim=0, return_counts=True)
    order = torch.argsort(votes, descending=True, stable=True)
    order = order[torch.argsort(different[order, 0], stable=True)]
    ranked = different[order]
    first = torch.ones(len(ranked), dtype=torch.bool, device=ranked.device)
    first[1:] = ranked[1:, 0] != ranked[:-1, 0]
    return ranked[first, 0], ranked[first, 1]
