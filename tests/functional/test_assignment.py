from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from kdflow.functional.assignment import atss_assign, valuable_weights

STRIDES = (8, 16, 32, 64)


def priors(side: int = 64) -> list[Tensor]:
    levels = []
    for stride in STRIDES:
        places = torch.arange(0, side, stride)
        y, x = torch.meshgrid(places, places, indexing="ij")
        center = torch.stack([x, y], dim=-1).reshape(-1, 2).float()
        levels.append(torch.cat([center - 4 * stride, center + 4 * stride], dim=1))
    return levels


OBJECTS = torch.tensor([[4.3, 6.2, 41.0, 35.7], [20.1, 10.6, 60.9, 62.2], [2.8, 40.1, 14.0, 55.7]])  # no ties


def assigned_by_loops(levels: list[Tensor], objects: Tensor, topk: int) -> tuple[list[int], list[float]]:
    """The four published steps, one prior and object at a time."""
    everything = torch.cat(levels)
    overlaps = box_iou(everything, objects)
    owner = [-1] * len(everything)
    thresholds = []
    for g, (x1, y1, x2, y2) in enumerate(objects.tolist()):
        candidates, start = [], 0
        for level in levels:
            middle = (level[:, :2] + level[:, 2:]) / 2
            order = (middle - torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2])).norm(dim=1).argsort(stable=True)
            candidates += [start + int(i) for i in order[:topk]]
            start += len(level)
        values = overlaps[candidates, g]
        thresholds.append(float(values.mean() + values.std()))
        for i in candidates:
            px, py = ((everything[i, :2] + everything[i, 2:]) / 2).tolist()
            central = min(px - x1, py - y1, x2 - px, y2 - py) > 0.01
            better = owner[i] < 0 or overlaps[i, g] > overlaps[i, owner[i]]
            if overlaps[i, g] >= thresholds[-1] and central and better:
                owner[i] = g
    return owner, thresholds


@pytest.mark.parametrize("topk", [1, 4, 9])
def test_assignment_agrees_with_the_published_steps_in_loops(topk: int) -> None:
    found = atss_assign(priors(), OBJECTS, topk)
    owner, thresholds = assigned_by_loops(priors(), OBJECTS, topk)
    assert found.indices.tolist() == owner
    assert found.thresholds.tolist() == pytest.approx(thresholds, abs=1e-6)


def test_positives_lie_inside_their_object() -> None:
    found = atss_assign(priors(), OBJECTS)
    middle = torch.cat([(p[:, :2] + p[:, 2:]) / 2 for p in priors()])
    positive = found.indices >= 0
    mine = OBJECTS[found.indices[positive]]
    assert positive.any()
    assert (middle[positive] > mine[:, :2]).all()
    assert (middle[positive] < mine[:, 2:]).all()
    torch.testing.assert_close(found.overlaps > 0, positive)


def test_no_objects_leave_everything_unassigned() -> None:
    found = atss_assign(priors(), torch.zeros(0, 4))
    assert (found.indices == -1).all()
    assert found.thresholds.shape == (0,)


def test_one_candidate_sets_its_own_overlap_as_threshold() -> None:
    level = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    found = atss_assign([level], torch.tensor([[0.0, 0.0, 8.0, 6.0]]))
    assert found.indices.tolist() == [0]
    assert found.thresholds.item() == pytest.approx(0.75)


def test_priors_on_padding_change_nothing_for_the_others() -> None:
    usable = torch.cat([(p[:, 0] + p[:, 2]) / 2 < 48 for p in priors()])
    kept = [p[(p[:, 0] + p[:, 2]) / 2 < 48] for p in priors()]
    with_padding = atss_assign(priors(), OBJECTS, valid=usable)
    without = atss_assign(kept, OBJECTS)
    assert (with_padding.indices[~usable] == -1).all()
    assert with_padding.indices[usable].tolist() == without.indices.tolist()
    torch.testing.assert_close(with_padding.thresholds, without.thresholds)


def test_the_valuable_region_ends_at_the_threshold_and_empties_with_gamma() -> None:
    everything = torch.cat(priors())
    thresholds = atss_assign(priors(), OBJECTS).thresholds
    wide, narrow, none = (valuable_weights(everything, OBJECTS, thresholds, gamma) for gamma in (0.25, 0.75, 1.0))
    assert (wide > 0).sum() > (narrow > 0).sum() > 0
    assert ((narrow > 0) <= (wide > 0)).all()
    assert none.sum() == 0


def test_the_weight_is_the_largest_overlap_in_the_region() -> None:
    prior = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    objects = torch.tensor([[0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 4.0]])
    both = valuable_weights(prior, objects, torch.tensor([0.9, 0.9]), 0.1, "union")
    second = valuable_weights(prior, objects, torch.tensor([0.2, 0.9]), 0.1, "union")
    assert both.item() == pytest.approx(0.5)
    assert second.item() == pytest.approx(0.4)


def test_the_two_overlap_measures_differ_for_a_prior_inside_its_object() -> None:
    prior, objects = torch.tensor([[2.0, 2.0, 8.0, 8.0]]), torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    threshold = torch.tensor([0.5])
    assert valuable_weights(prior, objects, threshold, 0.25, "union").item() == pytest.approx(0.36)
    assert valuable_weights(prior, objects, threshold, 0.25, "prior_area").item() == 0
