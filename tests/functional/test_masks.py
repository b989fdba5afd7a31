from __future__ import annotations

import pytest
import torch

from kdflow.functional.masks import level_of_boxes, paint, resize_mask


def painted_by_hand(boxes: list[list[float]], stride: int, size: tuple[int, int]) -> torch.Tensor:
    mask = torch.zeros(size)
    for x1, y1, x2, y2 in boxes:
        left, top = max(int(x1 / stride), 0), max(int(y1 / stride), 0)
        right, bottom = min(int(x2 / stride), size[1]), min(int(y2 / stride), size[0])
        if left == right or top == bottom:
            mask[top, left] = 1
        else:
            mask[top:bottom, left:right] = 1
    return mask


@pytest.mark.parametrize("stride", [4, 8, 32])
def test_painting_agrees_with_loops_over_cells(stride: int) -> None:
    boxes = [[5.0, 7.0, 50.0, 40.5], [30.0, 35.0, 61.0, 63.9], [1.0, 1.0, 2.0, 60.0], [20.0, 3.0, 50.0, 3.5]]
    size = (64 // stride, 64 // stride)
    mask = paint([torch.tensor(boxes)], stride, size)
    torch.testing.assert_close(mask[0, 0], painted_by_hand(boxes, stride, size))


def test_a_collapsed_box_covers_one_cell_and_not_a_column() -> None:
    mask = paint([torch.tensor([[9.0, 0.0, 11.0, 60.0]])], 8, (8, 8))[0, 0]
    assert mask.sum() == 1
    assert mask[0, 1] == 1


def test_a_box_on_the_far_border_stays_on_the_grid() -> None:
    mask = paint([torch.tensor([[64.0, 64.0, 70.0, 70.0], [60.0, -5.0, 64.0, 4.0]])], 8, (8, 8))[0, 0]
    assert mask[7, 7] == 1
    assert mask[0, 7] == 1
    assert mask.sum() == 2


def test_images_do_not_share_boxes_and_an_empty_one_is_zero() -> None:
    box = torch.tensor([[0.0, 0.0, 32.0, 32.0]])
    mask = paint([box.new_zeros(0, 4), box], 8, (8, 8))
    assert mask.shape == (2, 1, 8, 8)
    assert mask[0].sum() == 0
    assert mask[1].sum() == 16


def test_hidden_boxes_are_left_out_and_overlaps_count_once() -> None:
    boxes = torch.tensor([[0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 16.0, 16.0], [32.0, 32.0, 64.0, 64.0]])
    mask = paint([boxes], 8, (8, 8), [torch.tensor([True, True, False])])
    assert mask.unique().tolist() == [0.0, 1.0]
    assert mask.sum() == 4


def test_the_level_of_a_box_follows_its_size() -> None:
    sides = torch.tensor([3.0, 55.0, 111.0, 223.0, 447.0, 4000.0])
    boxes = torch.stack([torch.zeros(6), torch.zeros(6), sides, sides], dim=1)
    assert level_of_boxes(boxes, 5).tolist() == [0, 0, 1, 2, 3, 4]
    assert level_of_boxes(boxes, 2).tolist() == [0, 0, 1, 1, 1, 1]


def test_a_resized_mask_stays_hard() -> None:
    mask = paint([torch.tensor([[0.0, 0.0, 32.0, 32.0]])], 4, (16, 16))
    small = resize_mask(mask, (4, 4))
    assert small.unique().tolist() == [0.0, 1.0]
    assert small.sum() == 4
    assert resize_mask(mask, (16, 16)) is mask
