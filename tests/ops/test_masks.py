from __future__ import annotations

import pytest
import torch

from kdflow.errors import UsageError
from kdflow.ops.masks.boxes import boxes_mask
from kdflow.ops.masks.complement import complement
from kdflow.ops.masks.normalise import normalise
from kdflow.ops.masks.weighted_boxes import weighted_boxes

STRIDES = (4, 8, 16)
MAPS = [torch.zeros(2, 3, 64 // s, 64 // s) for s in STRIDES]
SMALL, LARGE = [8.0, 8.0, 40.0, 40.0], [0.0, 0.0, 64.0, 64.0]
BOXES = [torch.tensor([SMALL, LARGE]), torch.zeros(0, 4)]


def masks(assign: str, **options: object) -> list[torch.Tensor]:
    return boxes_mask(MAPS, BOXES, assign=assign, strides=STRIDES, canvas=(64, 64), **options)  # type: ignore[arg-type]


def test_by_area_paints_each_box_at_one_level() -> None:
    fine, middle, coarse = masks("by_area", base=30.0)
    assert fine[0].sum() == 64
    assert middle[0].sum() == 64
    assert coarse.sum() == 0


def test_every_paints_all_boxes_at_all_levels() -> None:
    for mask in masks("every"):
        assert mask[0].min() == 1
        assert mask[1].max() == 0


def test_finest_paints_once_and_takes_the_nearest_cells() -> None:
    fine, middle, coarse = masks("finest")
    torch.testing.assert_close(middle, fine[..., ::2, ::2])
    torch.testing.assert_close(coarse, fine[..., ::4, ::4])


def test_finest_may_paint_at_a_finer_stride_than_any_level() -> None:
    coarse_maps, coarse_strides = MAPS[1:], STRIDES[1:]
    box = [torch.tensor([[4.0, 4.0, 12.0, 12.0]]), torch.zeros(0, 4)]
    own = boxes_mask(coarse_maps, box, assign="finest", strides=coarse_strides, canvas=(64, 64))
    finer = boxes_mask(coarse_maps, box, assign="finest", stride=4, strides=coarse_strides, canvas=(64, 64))
    assert own[0][0, 0, :2, :2].tolist() == [[1, 0], [0, 0]]
    assert finer[0][0, 0, :2, :2].tolist() == [[0, 0], [0, 1]]
    assert finer[0].shape == own[0].shape


@pytest.mark.parametrize("assign", ["by_area", "every", "finest"])
def test_mask_and_complement_share_every_cell(assign: str) -> None:
    for mask in masks(assign):
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        torch.testing.assert_close(mask + complement(mask), torch.ones_like(mask))


def test_strides_must_fit_the_levels() -> None:
    with pytest.raises(UsageError, match="3 levels"):
        boxes_mask(MAPS, BOXES, strides=(4, 8))


def test_normalised_masks_have_one_total_per_image_or_batch() -> None:
    mask = torch.tensor([[0.0, 1.0], [3.0, 0.0]]) * torch.tensor([1.0, 2.0, 0.0]).view(3, 1, 1, 1)
    assert normalise(mask).sum((1, 2, 3)).tolist() == [1, 1, 0]
    assert normalise(mask, by="count")[1].max() == 3
    assert normalise(mask, by="mean")[:2].mean((1, 2, 3)).tolist() == [1, 1]
    assert normalise(mask, by="max").amax((1, 2, 3)).tolist() == [1, 1, 0]
    assert normalise(mask, scope="batch").sum((1, 2, 3)).tolist() == pytest.approx([1 / 3, 2 / 3, 0])


def test_overlapped_cells_are_at_least_one_and_end_at_the_border() -> None:
    boxes = [torch.tensor([[0.0, 0.0, 40.0, 24.0], [61.0, 61.0, 62.0, 70.0]])]
    (mask,) = weighted_boxes([torch.zeros(1, 1, 4, 4)], boxes, cells="overlapped", strides=(16,))
    expected = torch.zeros(4, 4)
    expected[:2, :3], expected[3, 3] = 1 / 6, 1.0
    torch.testing.assert_close(mask[0, 0], expected)
