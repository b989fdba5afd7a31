"""Pairs of predictions."""

from __future__ import annotations

import torch

from kdflow.functional.matching import assign_all, prediction_cost


def predictions(seed: int = 0, queries: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(1, queries, 4, generator=generator) * 0.2
    boxes[..., :2] += 0.2 + torch.linspace(0, 0.5, queries)[None, :, None]
    return torch.randn(1, queries, 3, generator=generator), boxes


def test_equal_predictions_pair_with_themselves() -> None:
    logits, boxes = predictions()
    ((rows, columns),) = assign_all([prediction_cost(logits, logits, boxes, boxes)])[0]
    assert torch.equal(rows, columns)


def test_permuting_the_student_permutes_the_pairs() -> None:
    logits, boxes = predictions()
    order = torch.tensor([3, 1, 4, 0, 2])
    cost = prediction_cost(logits[:, order], logits, boxes[:, order], boxes)
    ((_, columns),) = assign_all([cost])[0]
    assert torch.equal(columns, order)


def test_the_surplus_stays_unpaired() -> None:
    costs = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0))
    for rows, columns in assign_all([costs])[0]:
        assert len(rows) == 3
        assert sorted(columns.tolist()) == [0, 1, 2]


def test_a_diverged_model_is_paired_all_the_same() -> None:
    cost = torch.tensor([[[float("nan"), 1.0], [0.0, float("inf")]]])
    ((rows, columns),) = assign_all([cost])[0]
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])
