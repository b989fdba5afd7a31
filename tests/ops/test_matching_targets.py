"""Queries and the targets that they are given."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from kdflow.functional.box_forms import to_center, to_corners
from kdflow.functional.matching import target_cost
from kdflow.ops.matching.targets import targets

SIZES = [(100, 200), (50, 80)]
COUNTS = (3, 0)


def case(counts: tuple[int, ...] = COUNTS) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    goals = [0.2 + torch.rand(n, 4, generator=generator) * 0.3 for n in counts]
    scales = torch.tensor([[w, h, w, h] for h, w in SIZES], dtype=torch.float32)
    return {
        "logits": [torch.randn(2, 4, 5, generator=generator) for _ in range(2)],
        "boxes": [0.2 + torch.rand(2, 4, 4, generator=generator) * 0.3 for _ in range(2)],
        "target_boxes": [to_corners(goal) * scale for goal, scale in zip(goals, scales)],
        "target_labels": [torch.tensor([4, 0, 0])[:n] for n in counts],
        "target_scores": [torch.tensor([0.9, 0.5, 0.1])[:n] for n in counts],
    }


def test_the_matching_is_the_cheapest() -> None:
    given = case()
    found = targets(**given, image_sizes=SIZES)
    goal = to_center(given["target_boxes"][0] / torch.tensor([200.0, 100, 200, 100]))
    for layer in range(2):
        cost = target_cost(given["logits"][layer][:1], given["boxes"][layer][:1], goal[None], given["target_labels"][0][None])[0]
        best = min(sum(float(cost[q, t]) for t, q in enumerate(order)) for order in permutations(range(4), 3))
        queries, objects = found["pairs"][layer][0]
        assert float(cost[queries, objects].sum()) == pytest.approx(best)


def test_the_cost_is_that_of_deformable_detr() -> None:
    """One query that lies on its target: 0.25 (1 - p)^2 (-ln p) - 0.75 p^2 (-ln(1 - p)) with p = 1/2, and a GIoU of 1."""
    box = torch.tensor([[[0.5, 0.5, 0.2, 0.4]]])
    cost = target_cost(torch.zeros(1, 1, 3), box, box, torch.tensor([[1]]))
    assert float(cost) == pytest.approx(2 * (0.25 - 0.75) * 0.25 * torch.tensor(2.0).log().item() - 2, abs=1e-6)


def test_every_query_knows_what_it_is_to_predict() -> None:
    given = case()
    found = targets(**given, image_sizes=SIZES, rest=0.5)
    queries, objects = found["pairs"][1][0]
    (free,) = set(range(4)) - set(queries.tolist())
    assert found["matched"][1][0].sum() == 3
    assert torch.equal(found["labels"][1][0, queries], given["target_labels"][0][objects])
    assert torch.equal(found["weights"][1][0, queries], given["target_scores"][0][objects])
    goal = to_center(given["target_boxes"][0] / torch.tensor([200.0, 100, 200, 100]))
    torch.testing.assert_close(found["boxes"][1][0, queries], goal[objects])
    assert (found["matched"][1][0, free], found["labels"][1][0, free], found["weights"][1][0, free]) == (0, -1, 0.5)


def test_an_image_without_targets_has_queries_without_any() -> None:
    found = targets(**case(), image_sizes=SIZES, rest=0.5)
    assert found["matched"][0][1].sum() == 0
    assert (found["labels"][0][1] == -1).all()
    assert (found["weights"][0][1] == 0.5).all()


def test_scores_take_no_part_and_are_one_where_there_are_none() -> None:
    given = case()
    scored = targets(**given, image_sizes=SIZES)
    given.pop("target_scores")
    plain = targets(**given, image_sizes=SIZES)
    assert all(torch.equal(a, b) for a, b in zip(scored["labels"], plain["labels"]))
    assert set(plain["weights"][0].unique().tolist()) == {1.0}


def test_more_targets_than_queries_leave_some_out() -> None:
    given = case((3, 3)) | {"logits": [torch.zeros(2, 2, 5)], "boxes": [torch.full((2, 2, 4), 0.3)]}
    found = targets(**given, image_sizes=SIZES)
    assert found["matched"][0].sum() == 4
