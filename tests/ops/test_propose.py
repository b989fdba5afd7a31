"""Boxes chosen from dense predictions by scores."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from kdflow.errors import UsageError
from kdflow.ops.regions.propose import propose
from kdflow.ops.values.choose import choose

SIZES = [(64, 64), (64, 48)]


def places(seed: int = 0, spread: float = 20.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(2, 60, 2, generator=generator) * 50
    return list(
        torch.cat([first, first + 5 + torch.rand(2, 60, 2, generator=generator) * spread], -1).split([40, 20], 1)
    )


def scores(seed: int) -> list[torch.Tensor]:
    return list(torch.rand(2, 60, generator=torch.Generator().manual_seed(seed)).split([40, 20], 1))


def test_best_come_first_do_not_overlap_and_lie_on_the_image() -> None:
    found = propose(places(3), scores(1), SIZES, k=6, nms_iou=0.3, min_side=10)
    for boxes, best, (height, width) in zip(found["boxes"], found["scores"], SIZES, strict=True):
        assert 0 < len(boxes) <= 6
        assert (best[:-1] >= best[1:]).all()
        assert (box_iou(boxes, boxes) - torch.eye(len(boxes))).max() <= 0.3
        assert (boxes[:, 2] <= width).all()
        assert (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] - boxes[:, :2] > 10).all()


def test_scores_of_zero_still_give_boxes() -> None:
    found = propose(places(3), [torch.zeros_like(level) for level in scores(1)], SIZES)
    assert all(len(b) and not s.any() for b, s in zip(found["boxes"], found["scores"], strict=True))


def test_small_boxes_leave_an_image_without_proposals() -> None:
    found = propose(places(3, spread=1.0), scores(1), SIZES, min_side=10)
    assert [b.shape for b in found["boxes"]] == [(0, 4), (0, 4)]


def test_levels_are_cut_together_or_each_by_itself() -> None:
    boxes = [torch.tensor([[[0.0, 0, 9, 9], [20, 0, 29, 9]]]), torch.tensor([[[0.0, 20, 9, 29]]])]
    values = [torch.tensor([[0.9, 0.8]]), torch.tensor([[0.1]])]
    together = propose(boxes, values, SIZES[:1], pre_nms=1)
    assert together["scores"][0].tolist() == [pytest.approx(0.9)]
    alone = propose(boxes, values, SIZES[:1], pre_nms=1, per="level")
    assert alone["scores"][0].tolist() == [pytest.approx(0.9), pytest.approx(0.1)]


def test_boxes_of_unlike_classes_do_not_suppress_each_other() -> None:
    boxes, values = [torch.tensor([[[0.0, 0, 9, 9], [0, 0, 9, 8]]])], [torch.tensor([[0.9, 0.8]])]
    labels = [torch.tensor([[0, 1]])]
    assert len(propose(boxes, values, SIZES[:1], nms_iou=0.5)["boxes"][0]) == 1
    assert len(propose(boxes, values, SIZES[:1], labels, nms_iou=0.5)["boxes"][0]) == 2


def test_inputs_are_not_overwritten() -> None:
    ours = places(3)
    before = [level.clone() for level in ours]
    propose(ours, scores(1), SIZES)
    assert all(torch.equal(a, b) for a, b in zip(ours, before, strict=True))


def test_one_choice_serves_all_numbers_of_a_box() -> None:
    ours, theirs = torch.zeros(1, 2, 4, requires_grad=True), torch.ones(1, 2, 4)
    chosen = choose(theirs, ours, where=torch.tensor([[True, False]]))
    assert chosen.tolist() == [[[1.0] * 4, [0.0] * 4]]
    (grad,) = torch.autograd.grad(chosen.sum(), ours)
    assert grad.tolist() == [[[0.0] * 4, [1.0] * 4]]
    with pytest.raises(UsageError, match="leading axes"):
        choose(theirs, ours, where=torch.ones(3))


def test_places_are_those_of_the_boxes_over_all_levels() -> None:
    ours, values = places(3), scores(1)
    found = propose(ours, values, SIZES, k=6, nms_iou=0.3)
    for image, (boxes, best, place) in enumerate(zip(*(found[k] for k in ("boxes", "scores", "places")), strict=True)):
        limit = torch.tensor([SIZES[image][1], SIZES[image][0]] * 2)
        assert boxes.equal(torch.cat(ours, 1)[image][place].minimum(limit))
        assert best.equal(torch.cat(values, 1)[image][place])


def test_boxes_of_other_levels_suppress_or_do_not() -> None:
    boxes = [torch.tensor([[[0.0, 0, 9, 9], [0, 0, 9, 8]]]), torch.tensor([[[0.0, 0, 8, 9]]])]
    values = [torch.tensor([[0.9, 0.8]]), torch.tensor([[0.7]])]
    assert propose(boxes, values, SIZES[:1], nms_iou=0.5)["places"][0].tolist() == [0]
    assert propose(boxes, values, SIZES[:1], nms_iou=0.5, suppress="level")["places"][0].tolist() == [0, 2]
