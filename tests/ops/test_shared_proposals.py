"""Bells, gates and class scores on proposals that both models judge."""

from __future__ import annotations

import pytest
import torch

from kdflow.errors import UsageError
from kdflow.ops.losses.one_vs_rest import one_vs_rest
from kdflow.ops.masks.boxes import boxes_mask
from kdflow.ops.queries.random import random
from kdflow.ops.regions.of_class import of_class
from kdflow.ops.taps.repeat import repeat
from kdflow.ops.values.iou import iou

LIKE = [torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 8, 8)]


def bell(*boxes: list[float]) -> torch.Tensor:
    return boxes_mask(LIKE, [torch.tensor(boxes).reshape(-1, 4)], assign="every", spread=2.0, strides=(8, 16))[0][0, 0]


def test_a_bell_peaks_at_the_centre_cell_alone() -> None:
    mask = bell([16, 16, 48, 48])
    assert torch.equal((mask == 1).nonzero(), torch.tensor([[4, 4]]))
    assert (mask > 0).sum() == 16
    torch.testing.assert_close(mask[4, 2], torch.tensor(-0.5).exp())


def test_a_box_without_extent_is_one_cell() -> None:
    mask = bell([17, 17, 18, 40])
    assert mask.sum() == 1
    assert mask[2, 2] == 1


def test_duplicates_change_nothing_and_no_box_gives_zeros() -> None:
    assert torch.equal(bell([16, 16, 48, 48], [16, 16, 48, 48]), bell([16, 16, 48, 48]))
    assert not bell().any()


def test_a_box_shows_at_its_own_level_alone() -> None:
    masks = boxes_mask(LIKE, [torch.tensor([[0.0, 0, 120, 120]])], spread=2.0, strides=(8, 16))
    assert not masks[0].any()
    assert masks[1].any()


def test_of_class_reads_the_columns_of_the_label() -> None:
    values = torch.arange(24.0).reshape(2, 12)
    assert of_class(values, torch.tensor([2, 0])).tolist() == [[8, 9, 10, 11], [12, 13, 14, 15]]
    assert of_class(values, torch.tensor([3, 0])).tolist() == [[0, 0, 0, 0], [12, 13, 14, 15]]
    with pytest.raises(UsageError, match="grouped by 4"):
        of_class(torch.zeros(1, 6), torch.tensor([0]))


def test_iou_is_taken_row_by_row() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]])
    assert iou(boxes, torch.tensor([[0.0, 0, 2, 1], [5, 5, 6, 6]])).tolist() == [0.5, 0.0]
    assert iou(boxes[None], torch.tensor([[[0.0, 0, 2, 1], [5, 5, 6, 6]]])).tolist() == [[0.5, 0.0]]       # queries, places


def test_equal_scores_give_no_gradient_and_certain_ones_a_finite_one() -> None:
    logits = torch.tensor([[2.0, -1, 0.5], [100.0, -100, 0]], requires_grad=True)
    one_vs_rest(logits, logits.detach(), axes=("n", "c")).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros(2, 3), atol=1e-5, rtol=0)
    other = logits.detach().clone().requires_grad_()
    one_vs_rest(other, -logits.detach(), axes=("n", "c")).sum().backward()
    assert torch.isfinite(other.grad).all()  # type: ignore[arg-type]


def test_drawn_queries_are_the_same_for_all_images() -> None:
    torch.manual_seed(0)
    for space in ("logit_normal", "uniform"):
        drawn = random({"content": torch.zeros(3, 5, 8)}, count=7, space=space)  # type: ignore[arg-type]
        assert drawn["anchors"].shape == (3, 7, 4)
        assert torch.equal(drawn["references"][0], drawn["references"][2])
        torch.testing.assert_close(drawn["anchors"].sigmoid(), drawn["references"])


def test_one_layer_stands_beside_every_layer() -> None:
    layer = torch.rand(1, 2, 3)
    assert all(entry is layer for entry in repeat(layer, [layer, layer, layer]))
