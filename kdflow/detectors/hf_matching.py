"""Matching of queries and objects for the set losses: one copy of costs to the host and one of pairs back, however many layers.

The host solves the assignments; what it knows of the pairs beside their numbers (their images, their places among all objects of
the batch) travels with them, so that the losses need no work per image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kdflow.detectors.hf_parts import Labels
from kdflow.functional.devices import send
from kdflow.ports import ImageSizes, Stage

Pairs = list[list[tuple[Tensor, Tensor]]]


class Joined(NamedTuple):
    """The pairs of all images of one layer.

    Attributes:
        images: (P,) image of each pair.
        queries: (P,) query within its image.
        objects: (P,) object among those of the whole batch.
    """

    images: Tensor
    queries: Tensor
    objects: Tensor


class LayerPairs(list[tuple[Tensor, Tensor]]):
    """Per image (query, object) pairs of one layer, with the same in one piece."""

    joined: Joined


def joined(pairs: Sequence[tuple[Tensor, Tensor]], counts: Sequence[int]) -> Joined:
    """Pairs of all images in one piece; ``counts`` are the objects per image."""
    if isinstance(pairs, LayerPairs):
        return pairs.joined
    starts = [sum(counts[:image]) for image in range(len(counts))]
    return Joined(
        torch.cat([torch.full_like(queries, image) for image, (queries, _) in enumerate(pairs)]),
        torch.cat([queries for queries, _ in pairs]),
        torch.cat([objects + start for start, (_, objects) in zip(starts, pairs)]),
    )


def pair_up(costs: Sequence[Tensor], counts: Sequence[int]) -> list[LayerPairs]:
    """The cheapest pairs of each layer.

    Args:
        costs: Per layer (B, N, T) of all queries with the T objects of all images.
        counts: Objects per image.

    Returns:
        Per layer and image (query, object) int64, on the device of the costs.
    """
    flat = torch.cat([cost.flatten() for cost in costs]).cpu().numpy()
    ends = np.cumsum([cost.numel() for cost in costs])[:-1]
    solved = [_solved(own.reshape(cost.shape), counts) for own, cost in zip(np.split(flat, ends), costs)]
    table = np.concatenate([numbers for layer in solved for numbers in layer], axis=1)
    sizes = [numbers.shape[1] for layer in solved for numbers in layer]
    queries, objects, images, places = send(torch.from_numpy(table), costs[0].device).unbind()
    per_image = list(zip(queries.split(sizes), objects.split(sizes)))
    layers, start, count = [], 0, len(counts)
    for order, layer in enumerate(solved):
        end = start + sum(numbers.shape[1] for numbers in layer)
        found = LayerPairs(per_image[order * count : (order + 1) * count])
        found.joined = Joined(images[start:end], queries[start:end], places[start:end])
        layers.append(found)
        start = end
    return layers


def _solved(cost: Any, counts: Sequence[int]) -> list[Any]:
    """Per image (4, P) int64: query, object, image, object among all of the batch."""
    from scipy.optimize import linear_sum_assignment

    found, start = [], 0
    for image, count in enumerate(counts):
        queries, objects = linear_sum_assignment(cost[image, :, start : start + count])
        found.append(np.stack([queries, objects, np.full_like(queries, image), objects + start]).astype(np.int64))
        start += count
    return found


class Match(nn.Module):
    """The library's assignment of queries to objects, per layer.

    A family whose stage reads something else has its own :meth:`costs` and :meth:`found`; then several such stages of a detector
    are still one call (:func:`together`).

    Args:
        loss: Whose matcher says the costs (:class:`kdflow.detectors.hf_loss.SetLoss`).
    """

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.loss = loss

    @torch.no_grad()
    def forward(self, **values: Any) -> dict[str, Any]:
        """``indices``: per layer and image (query, object) int64 on the device of the logits; arguments as :meth:`costs`."""
        costs = self.costs(**values)
        return self.found(list(pair_up(costs, object_counts(values))), **values)

    def costs(
        self,
        logits: list[Tensor],
        boxes: list[Tensor],
        target_boxes: list[Tensor],
        target_labels: list[Tensor],
        image_sizes: ImageSizes,
    ) -> list[Tensor]:
        """(B, N, T) per layer, for the objects of all images."""
        targets: Labels = self.loss.targets(target_boxes, target_labels, image_sizes)
        rows = torch.cat([x.flatten(0, 1) for x in logits])
        places = torch.cat([b.flatten(0, 1) for b in self.loss.clamped(boxes)])
        cost: Tensor = self.loss.matching_cost(rows, places, targets)
        layers = cost.split([x.shape[0] * x.shape[1] for x in logits])
        return [c.unflatten(0, x.shape[:2]) for c, x in zip(layers, logits)]

    def found(self, pairs: Pairs, **values: Any) -> dict[str, Any]:
        """What the stage gives for the pairs of its layers."""
        del values
        return {"indices": pairs}

    def infer(self, logits: list[Tensor], target_labels: list[Tensor], **rest: Any) -> dict[str, Any]:
        """As many pairs as targets, or as queries where these are fewer."""
        del rest
        counts = [min(len(t), logits[0].shape[1]) for t in target_labels]
        pair = [(logits[0].new_empty(n, dtype=torch.long), logits[0].new_empty(n, dtype=torch.long)) for n in counts]
        return {"indices": [list(pair) for _ in logits]}


def object_counts(values: Mapping[str, Any]) -> list[int]:
    """Objects per image of a matching stage's inputs."""
    return [len(labels) for labels in values["target_labels"]]


class Matches(nn.Module):
    """Several matching stages in one call.

    Args:
        parts: The stages by name.
    """

    def __init__(self, parts: Mapping[str, Match]) -> None:
        super().__init__()
        self.parts = dict(parts)

    @torch.no_grad()
    def forward(self, wanted: Iterable[str] | None = None, **values: Any) -> dict[str, Any]:
        """Each stage's results under ``<stage>__<key>``; only those of stages of which something is wanted."""
        own = {name: _part(name, values) for name in self._needed(wanted)}
        costs = {name: self.parts[name].costs(**given) for name, given in own.items()}
        counts = object_counts(next(iter(own.values())))
        pairs = iter(pair_up([cost for layers in costs.values() for cost in layers], counts))
        found: dict[str, Any] = {}
        for name, given in own.items():
            result = self.parts[name].found([next(pairs) for _ in costs[name]], **given)
            found |= {_joint(name, key): value for key, value in result.items()}
        return found

    def _needed(self, wanted: Iterable[str] | None) -> list[str]:
        if wanted is None:
            return list(self.parts)
        stages = {key.rpartition("__")[0] for key in wanted}
        return [name for name in self.parts if _word(name) in stages]

    def infer(self, wanted: Iterable[str] | None = None, **values: Any) -> dict[str, Any]:
        """Each stage's rule."""
        found: dict[str, Any] = {}
        for name in self._needed(wanted):
            result = self.parts[name].infer(**_part(name, values))
            found |= {_joint(name, key): value for key, value in result.items()}
        return found


def together(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """The stages, those that match as one, where the first of them stood."""
    matches = {
        name: stage
        for name, stage in stages.items()
        if isinstance(stage.run, Match) and type(stage.run).forward is Match.forward
    }
    if len(matches) < 2:
        return dict(stages)
    first = next(iter(matches))
    whole = replace(
        matches[first],
        run=Matches({name: stage.run for name, stage in matches.items()}),  # type: ignore[misc]
        reads={_joint(name, key): port for name, stage in matches.items() for key, port in stage.reads.items()},
        gives={_joint(name, key): port for name, stage in matches.items() for key, port in stage.gives.items()},
        selective=True,
    )
    return {name: whole if name == first else stage for name, stage in stages.items() if name == first or name not in matches}


def _joint(stage: str, key: str) -> str:
    return f"{_word(stage)}__{key}"


def _word(stage: str) -> str:
    return stage.replace(".", "_")


def _part(stage: str, values: Mapping[str, Any]) -> dict[str, Any]:
    start = f"{_word(stage)}__"
    return {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}
