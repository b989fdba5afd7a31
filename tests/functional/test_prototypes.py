"""Greedy pursuit in two spaces."""

from __future__ import annotations

import itertools

import torch

from kdflow.functional.prototypes import dense_in_both, density, pursue
from kdflow.functional.statistics import unit


def two_clusters() -> torch.Tensor:
    return torch.tensor([[1.0, 0, 0]] * 4 + [[0, 1.0, 0]] * 3)


def residual(student: torch.Tensor, teacher: torch.Tensor, count: int, penalty: float) -> float:
    """Energy left after ``count`` steps, by solving each step's small least-squares problem."""
    a, d = unit(student, (1,)).double(), unit(teacher, (1,)).double()
    rest_a, rest_d = a.clone(), d.clone()
    system = torch.tensor([[1 + penalty, -penalty], [-penalty, 1 + penalty]], dtype=torch.float64)
    for k in pursue(student, teacher, count, penalty):
        weights = torch.linalg.solve(system, torch.stack([rest_a @ a[k], rest_d @ d[k]]))
        rest_a, rest_d = rest_a - weights[0][:, None] * a[k], rest_d - weights[1][:, None] * d[k]
    return float(rest_a.square().sum() + rest_d.square().sum())


def test_two_clusters_give_one_index_each_first() -> None:
    vectors = two_clusters()[1:]
    picked = pursue(vectors, vectors, count=2)
    assert {int(i) // 3 for i in picked} == {0, 1}


def test_lengths_of_vectors_do_not_matter() -> None:
    torch.manual_seed(0)
    vectors, scales = torch.randn(9, 5), torch.rand(9, 1) + 0.1
    assert torch.equal(pursue(vectors, vectors), pursue(vectors * scales, vectors))


def test_more_prototypes_leave_no_more_energy() -> None:
    torch.manual_seed(1)
    student, teacher = torch.randn(12, 4), torch.randn(12, 6)
    energies = [residual(student, teacher, n, penalty=0.0) for n in range(1, 6)]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(energies))


def test_lonely_vectors_are_no_candidates() -> None:
    vectors = torch.cat([two_clusters(), torch.tensor([[0, 0, 1.0]])])
    dense = dense_in_both(vectors, vectors, width=0.1, quantile=0.4)
    assert torch.equal(dense, torch.arange(4))
    torch.testing.assert_close(density(vectors, 0.1), torch.tensor([4.0] * 4 + [3.0] * 3 + [1.0]))


def test_one_vector_and_none_are_handled() -> None:
    assert pursue(torch.ones(1, 3), torch.ones(1, 2), count=3).tolist() == [0, 0, 0]
    assert pursue(torch.zeros(0, 3), torch.zeros(0, 2)).tolist() == []
