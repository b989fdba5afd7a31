"""Boxes painted with a weight each."""

from __future__ import annotations

import torch

from kdflow.functional.box_weights import cover, cut_to_cells, paint_in_order, paint_largest, touched_cells

SIZE = (4, 4)


def painted(boxes: list[list[float]], weights: list[float]) -> torch.Tensor:
    cells = cut_to_cells(torch.tensor(boxes), 8, SIZE)
    return paint_in_order(cover(cells, SIZE), cells.collapsed, torch.tensor(weights))


def test_a_later_box_covers_an_earlier_one() -> None:
    shown = painted([[0, 0, 16, 16], [8, 8, 24, 24]], [0.9, 0.2])
    assert shown[0, 0] == 0.9
    assert shown[1, 1] == 0.2
    assert shown[3, 3] == 0


def test_a_collapsed_box_only_raises_its_cell() -> None:
    below = painted([[0, 0, 16, 16], [1, 1, 2, 2]], [0.9, 0.2])
    above = painted([[0, 0, 16, 16], [1, 1, 2, 2]], [0.2, 0.9])
    assert (below[0, 0], above[0, 0], above[0, 1]) == (0.9, 0.9, 0.2)


def test_a_collapsed_box_under_a_later_one_disappears() -> None:
    assert painted([[1, 1, 2, 2], [0, 0, 16, 16]], [0.9, 0.2])[0, 0] == 0.2


def test_touched_cells_include_both_ends() -> None:
    cells = touched_cells(torch.tensor([[9.0, 9, 15, 20]]), (1 / 8, 1 / 8))
    assert [int(v) for v in cells[:4]] == [1, 1, 3, 4]
    assert cells.cells.item() == 6


def test_the_largest_weight_wins_and_no_box_gives_zeros() -> None:
    cells = touched_cells(torch.tensor([[0.0, 0, 30, 30], [0, 0, 7, 7]]), (1 / 8, 1 / 8))
    shown = paint_largest(cover(cells, SIZE), 1 / cells.cells)
    assert shown[0, 0] == 0.25
    assert shown[3, 3] == 1 / 25
    assert not paint_largest(torch.zeros(0, 4, 4, dtype=torch.bool), torch.zeros(0)).any()
