"""Averages and blocks of regions."""

from __future__ import annotations

import torch

from kdflow.functional.pooling import align_boxes, average_in_boxes, canonical_level


def test_an_average_includes_first_and_last_cell() -> None:
    features = torch.arange(16.0).reshape(1, 1, 4, 4)
    box = torch.tensor([[8.0, 0, 16, 9]])
    found = average_in_boxes(features, [box], 8)
    torch.testing.assert_close(found, features[:, 0, 0:2, 1:3].reshape(1, -1).mean(1, keepdim=True))


def test_an_average_leaves_out_cells_beyond_the_map() -> None:
    features = torch.arange(16.0).reshape(1, 1, 4, 4)
    found = average_in_boxes(features, [torch.tensor([[24.0, 24, 32, 32]])], 8)
    assert found.item() == 15.0


def test_images_without_boxes_give_no_rows() -> None:
    found = average_in_boxes(torch.rand(2, 3, 4, 4), [torch.zeros(0, 4), torch.tensor([[0.0, 0, 8, 8]])], 8)
    assert found.shape == (1, 3)


def test_boxes_go_to_the_level_of_their_size() -> None:
    sides = torch.tensor([10.0, 111, 113, 224, 448, 5000])
    boxes = torch.stack([torch.zeros(6), torch.zeros(6), sides, sides], dim=1)
    assert canonical_level(boxes, (8, 16, 32)).tolist() == [0, 0, 0, 1, 2, 2]


def test_blocks_keep_the_order_of_the_boxes_over_levels_and_images() -> None:
    maps = [torch.full((2, 1, 16, 16), 1.0), torch.full((2, 1, 8, 8), 2.0)]
    maps[0][1], maps[1][1] = 3.0, 4.0
    box = torch.tensor([[8.0, 8, 40, 40]])
    blocks = align_boxes(maps, [box.repeat(2, 1), box.repeat(2, 1)], torch.tensor([1, 0, 0, 1]), (8, 16), bins=2)
    assert blocks[:, 0, 0, 0].tolist() == [2, 1, 3, 4]


def test_gradient_of_blocks_reaches_the_level_they_come_from_alone() -> None:
    maps = [torch.rand(1, 2, 8, 8, requires_grad=True), torch.rand(1, 2, 4, 4, requires_grad=True)]
    align_boxes(maps, [torch.tensor([[8.0, 8, 40, 40]])], torch.tensor([0]), (8, 16)).sum().backward()
    assert maps[0].grad is not None
    assert maps[0].grad.abs().sum() > 0
    assert maps[1].grad is None or not maps[1].grad.abs().sum()
