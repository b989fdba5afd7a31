"""The library's matching and sampling of boxes, with as few questions to the device as their random draws allow.

The numbers, and the draws with their order, are the library's (``torchvision.models.detection._utils``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher, encode_boxes

from kdflow.detectors.caches import remembered


class QuietMatcher(Matcher):
    """The library's matcher of ``like``, whose low-quality matches are found by a mask instead of a list of places."""

    def __init__(self, like: Any) -> None:
        super().__init__(like.high_threshold, like.low_threshold, like.allow_low_quality_matches)

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        """Every object keeps the boxes that overlap it most."""
        highest = match_quality_matrix.max(dim=1).values
        chosen = (match_quality_matrix == highest[:, None]).any(dim=0)
        matches.copy_(torch.where(chosen, all_matches, matches))


class Weighed(BoxCoder):
    """The library's box coder of ``like``, whose weights travel to the device only once."""

    def __init__(self, like: Any) -> None:
        super().__init__(like.weights, like.bbox_xform_clip)

    def encode_single(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """Deltas (N, 4) from ``proposals`` to ``reference_boxes``, both xyxy."""
        weights = _weights(tuple(self.weights), reference_boxes.dtype, reference_boxes.device)
        found: Tensor = encode_boxes(reference_boxes, proposals, weights)
        return found


@remembered(64)
def _weights(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


def rows_of(masks: list[Tensor]) -> list[Tensor]:
    """Places where masks are true, in pieces, by two questions to the device.

    Args:
        masks: One-dimensional; what is asked of several images or levels is asked together.

    Returns:
        Ascending places within each mask.
    """
    counts = torch.stack([mask.sum() for mask in masks]).tolist()
    found = torch.cat(masks).nonzero().squeeze(1).split(counts)
    starts = [0]
    for mask in masks:
        starts.append(starts[-1] + len(mask))
    return [own - start for own, start in zip(found, starts)]


def sample(sampler: Any, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The library's balanced choice of positives (label 1 or more) and negatives (label 0), random.

    Args:
        sampler: ``BalancedPositiveNegativeSampler``, whose numbers count.
        labels: Per image (R,).

    Returns:
        Per image the places of the chosen positives and of the chosen negatives, ascending.
    """
    places = rows_of([*(own >= 1 for own in labels), *(own == 0 for own in labels)])
    chosen: tuple[list[Tensor], list[Tensor]] = ([], [])
    for positive, negative in zip(places[: len(labels)], places[len(labels) :]):
        most = int(sampler.batch_size_per_image * sampler.positive_fraction)
        objects = min(len(positive), most)
        rest = min(len(negative), sampler.batch_size_per_image - objects)
        for found, count, kept in zip((positive, negative), (objects, rest), chosen):
            drawn = torch.randperm(len(found), device=found.device)[:count]
            kept.append(found[drawn].sort().values)
    return chosen


def mask_of(places: Tensor, count: int) -> Tensor:
    """(count,) uint8, 1 at the places."""
    return torch.zeros(count, dtype=torch.uint8, device=places.device).index_fill(0, places, 1)
