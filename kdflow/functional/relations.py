"""How vectors lie to each other."""

from __future__ import annotations

import torch
from torch import Tensor

from kdflow.functional.precision import in_full
from kdflow.functional.statistics import unit


@in_full
def pairwise_distances(vectors: Tensor, eps: float = 1e-12, others: Tensor | None = None) -> Tensor:
    """Euclidean distances ``sqrt(max(|a|^2 + |b|^2 - 2ab, eps))`` between rows; 0 from a row to itself.

    Args:
        vectors: (N, C).
        eps: Lower bound of the squared distance; rows nearer than that get no gradient.
        others: (M, C); none compares the rows with each other.

    Returns:
        (N, M).
    """
    columns = vectors if others is None else others
    squares = vectors.square().sum(1)[:, None] + columns.square().sum(1)[None]
    distances = (squares - 2 * vectors @ columns.T).clamp(min=eps).sqrt()
    return distances if others is not None else distances * off_diagonal(distances)


def over_positive_mean(values: Tensor) -> Tensor:
    """``values`` over the mean of those above 0 (with gradient through the mean); unchanged where none is."""
    positive = values > 0
    count = positive.sum()
    mean = torch.where(positive, values, 0.0).sum() / count.clamp(min=1)
    return values / torch.where(count > 0, mean, 1.0)


def off_diagonal(square: Tensor) -> Tensor:
    """1 where row and column differ, 0 on the diagonal; shape and type of ``square`` (N, N)."""
    return 1 - torch.eye(len(square), dtype=square.dtype, device=square.device)


@in_full
def cosine_similarities(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every row of ``a`` (N, C) with every row of ``b`` (M, C): (N, M); 0 for a zero vector."""
    return unit(a, (1,)) @ unit(b, (1,)).T


def best_of_class(similarities: Tensor, row_labels: Tensor, column_labels: Tensor) -> Tensor:
    """Largest similarity of each row among the columns of its own class, 0 where its class has no column.

    Args:
        similarities: (N, M).
        row_labels: (N,) classes.
        column_labels: (M,) classes.
    """
    if similarities.shape[1] == 0:
        return similarities.new_zeros(len(similarities))
    same = row_labels[:, None] == column_labels[None]
    best = similarities.masked_fill(~same, -torch.inf).amax(1)
    return torch.where(same.any(1), best, 0.0)
