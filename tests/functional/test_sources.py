"""Where boxes come from."""

from __future__ import annotations

import torch
from torch import Tensor

from kdflow.functional.sources import read_cells, trace


def maps(grad: bool = False) -> list[Tensor]:
    """Two levels of two images, 3 x 4 and 2 x 2 cells, five channels."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 5, h, w, generator=generator).requires_grad_(grad) for h, w in ((3, 4), (2, 2))]


def test_boxes_are_traced_through_a_sampler_that_reorders_drops_and_adds() -> None:
    offered = [torch.tensor([[0.0, 0, 4, 4], [1.0, 1, 5, 5], [2.0, 2, 9, 9]]), torch.tensor([[3.0, 3, 7, 7]])]
    places = [torch.tensor([7, 0, 31]), torch.tensor([13])]
    truth = torch.tensor([[0.5, 0, 4, 4]])
    sampled = [torch.cat([offered[0][[2, 0]], truth]), torch.cat([truth, offered[1]])]
    found = trace(sampled, offered, places, anchors=2)
    assert found.image.tolist() == [0, 0, 0, 1, 1]
    assert found.cell.tolist() == [15, 3, -1, -1, 6]
    assert found.anchor.tolist() == [1, 1, -1, -1, 1]


def test_of_equal_proposals_the_better_one_is_the_source() -> None:
    offered = [torch.tensor([[0.0, 0, 4, 4], [0.0, 0, 4, 4]])]
    assert trace(offered, offered, [torch.tensor([9, 2])], 1).cell.tolist() == [9, 9]


def test_without_boxes_or_proposals_there_are_no_sources() -> None:
    boxes, none = [torch.zeros(2, 4)], [torch.zeros(0, 4)]
    assert trace(boxes, none, [torch.zeros(0).long()], 1).cell.tolist() == [-1, -1]
    assert trace(none, boxes, [torch.zeros(2).long()], 1).cell.shape == (0,)


def test_cells_are_read_at_their_level_row_and_column() -> None:
    levels = maps()
    rows = read_cells(levels, torch.tensor([0, 1, 1, 0]), torch.tensor([6, 12, 15, -1]))
    wanted = [levels[0][0, :, 1, 2], levels[1][1, :, 0, 0], levels[1][1, :, 1, 1], torch.zeros(5)]
    assert rows.equal(torch.stack(wanted))


def test_gradient_reaches_the_cells_that_were_read_and_no_others() -> None:
    levels = maps(grad=True)
    read_cells(levels, torch.tensor([0, 1]), torch.tensor([6, -1])).sum().backward()
    assert [int((level.grad != 0).sum()) for level in levels] == [5, 0]
    assert levels[0].grad[0, :, 1, 2].all()
