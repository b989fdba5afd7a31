"""Places whose prior lies well on a box, and boxes chosen by their places."""

from __future__ import annotations

import torch

from kdflow.ops.masks.cells import cells
from kdflow.ops.regions.near import near
from kdflow.ops.regions.places import places
from kdflow.ops.regions.select import select

PRIORS = [torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [50, 50, 60, 60]]), torch.tensor([[0.0, 0, 100, 100]])]


def marked(boxes: list[list[float]], **options: object) -> list[float]:
    found = near(PRIORS, [torch.tensor(boxes).reshape(-1, 4)], **options)  # type: ignore[arg-type]
    return torch.cat(found, 1)[0].tolist()


def test_the_bound_is_reached() -> None:
    assert marked([[0, 0, 10, 10]], iou=0.5) == [1, 1, 0, 0]
    assert marked([[0, 0, 10, 10]], iou=0.51) == [1, 0, 0, 0]


def test_a_relative_bound_is_exceeded() -> None:
    assert marked([[0, 0, 10, 10]], iou=0.5, relative=True) == [1, 0, 0, 0]
    assert marked([[0, 0, 10, 10]], iou=1.0, relative=True) == [0, 0, 0, 0]
    assert marked([[0, 0, 10, 10]], iou=0.0, relative=True) == [1, 1, 0, 1]


def test_the_best_prior_of_a_box_counts_however_small() -> None:
    assert marked([[0, 0, 2, 2]], iou=0.5, best=True) == [1, 0, 0, 0]
    assert marked([[200, 200, 210, 210]], iou=0.5, best=True) == [0, 0, 0, 0]


def test_a_box_sees_the_priors_of_its_level_alone() -> None:
    assert marked([[0, 0, 100, 100]], iou=0.0, relative=True, assign="by_area") == [1, 1, 1, 0]
    assert marked([[0, 0, 120, 120]], iou=0.0, relative=True, assign="by_area") == [0, 0, 0, 1]


def test_no_box_marks_nothing() -> None:
    assert marked([]) == [0, 0, 0, 0]


def test_a_cell_is_on_when_any_of_its_anchors_is() -> None:
    mask = cells(torch.tensor([[0.0, 1, 0, 0, 0, 0, 1, 1]]), torch.zeros(1, 3, 2, 2))
    assert mask.tolist() == [[[[1.0, 0.0], [0.0, 1.0]]]]


def test_selected_boxes_keep_image_and_order() -> None:
    boxes = [torch.arange(8.0).reshape(2, 4), torch.arange(8.0, 12).reshape(1, 4)]
    found = select(boxes, torch.tensor([0.0, 1, 1]), torch.tensor([4, 5, 6]))
    assert [len(b) for b in found["boxes"]] == [1, 1]
    assert torch.equal(found["boxes"][0][0], boxes[0][1])
    assert found["labels"].tolist() == [5, 6]


def test_places_become_boxes_of_their_image() -> None:
    keep = [torch.tensor([[True, False, False], [False, False, True]]), torch.tensor([[True], [False]])]
    labels = [torch.tensor([[1, 9, 9], [9, 9, 3]]), torch.tensor([[2], [9]])]
    found = places(PRIORS, keep, labels)
    assert torch.equal(found["boxes"][0], torch.stack([PRIORS[0][0], PRIORS[1][0]]))
    assert torch.equal(found["boxes"][1], PRIORS[0][2:])
    assert found["labels"].tolist() == [1, 2, 3]
