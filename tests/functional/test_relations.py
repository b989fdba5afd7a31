"""Tables of rows against rows."""

from __future__ import annotations

import torch

from kdflow.functional.relations import best_of_class, cosine_similarities, over_positive_mean, pairwise_distances


def test_distances_are_euclidean_with_a_zero_diagonal() -> None:
    torch.manual_seed(0)
    rows = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(pairwise_distances(rows), torch.cdist(rows, rows), atol=1e-6, rtol=0)
    assert not pairwise_distances(rows).diagonal().any()


def test_scaling_all_rows_leaves_normalised_distances_alone() -> None:
    rows = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = (over_positive_mean(pairwise_distances(rows * s)) for s in (1, 7.5))
    torch.testing.assert_close(a, b)


def test_equal_rows_give_a_finite_gradient() -> None:
    rows = torch.ones(3, 2, requires_grad=True)
    over_positive_mean(pairwise_distances(rows)).sum().backward()
    assert rows.grad is not None
    assert torch.isfinite(rows.grad).all()


def test_the_best_column_is_of_the_rows_own_class() -> None:
    table = torch.tensor([[0.1, 0.9, 0.3], [-0.5, 0.2, -0.7]])
    found = best_of_class(table, torch.tensor([0, 5]), torch.tensor([0, 1, 0]))
    torch.testing.assert_close(found, torch.tensor([0.3, 0.0]))


def test_no_columns_give_zeros() -> None:
    table = cosine_similarities(torch.ones(2, 3), torch.zeros(0, 3))
    assert best_of_class(table, torch.zeros(2).long(), torch.zeros(0).long()).tolist() == [0, 0]
