from __future__ import annotations

import torch

from kdflow.functional.assignment import atss_assign, valuable_weights
from kdflow.ops.regions.valuable import valuable
from tests.contracts.examples import priors

PRIORS = [priors(0), priors(1)]
BOXES = [torch.tensor([[6.3, 9.1, 40.2, 38.8], [30.4, 4.2, 60.1, 30.9]]), torch.zeros(0, 4)]


def test_weights_are_split_by_level_and_image() -> None:
    found = valuable(PRIORS, BOXES)
    assert [tuple(level.shape) for level in found] == [(2, 64), (2, 16)]
    thresholds = atss_assign(PRIORS, BOXES[0]).thresholds
    torch.testing.assert_close(torch.cat(found, dim=1)[0], valuable_weights(torch.cat(PRIORS), BOXES[0], thresholds))
    assert torch.cat(found, dim=1)[0].sum() > 0


def test_an_image_without_boxes_has_no_region() -> None:
    assert all(level[1].sum() == 0 for level in valuable(PRIORS, BOXES))


def test_padding_is_never_in_the_region() -> None:
    weights = [torch.ones(2, len(p)) for p in PRIORS]
    everywhere = valuable(PRIORS, BOXES, weights)
    for with_weights, without in zip(everywhere, valuable(PRIORS, BOXES), strict=True):
        torch.testing.assert_close(with_weights, without)
    weights[0][:, 32:] = 0
    assert valuable(PRIORS, BOXES, weights)[0][:, 32:].sum() == 0
    assert everywhere[0][:, 32:].sum() > 0


def test_the_region_is_empty_when_it_starts_at_the_threshold() -> None:
    assert all(level.sum() == 0 for level in valuable(PRIORS, BOXES, gamma=1.0))
