"""Prototypes of a class: few vectors that rebuild all others, found in the spaces of two models at once.

Source: Tang et al., ECCV 2022 (arXiv 2210.09022), prototype generation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdflow.functional.statistics import unit


def density(vectors: Tensor, width: float = 0.1) -> Tensor:
    """``sum_j exp(-((1 - cos_ij) / width)^2)`` of unit vectors (n, C): (n,)."""
    return torch.exp(-((1 - vectors @ vectors.T) / width).square()).sum(1)


def dense_in_both(student: Tensor, teacher: Tensor, width: float, quantile: float) -> Tensor:
    """Indices of the vectors whose density is strictly above the quantile in both spaces.

    The quantile is the entry ``int(quantile * n)`` of the sorted densities.
    """
    keep = torch.ones(len(student), dtype=torch.bool, device=student.device)
    for vectors in (student, teacher):
        rho = density(vectors, width)
        keep &= rho > rho.sort().values[int(quantile * len(rho))]
    return torch.nonzero(keep).squeeze(1)


def pursue(
    student: Tensor, teacher: Tensor, count: int = 10, penalty: float = 10.0, width: float = 0.1, quantile: float = 0.4
) -> Tensor:
    """Greedy matching pursuit in two spaces with coupled coefficients.

    In every step each candidate k explains the residuals of all vectors j with coefficients that minimise
    ``|R_S - w_S a_k|^2 + |R_T - w_T d_k|^2 + penalty (w_S - w_T)^2``; the candidate with the smallest sum over j is
    taken and its share removed. A candidate may be taken again.

    Args:
        student: (n, C_S) vectors of one class; made unit length here.
        teacher: (n, C_T) vectors of the same objects.
        count: Steps.
        penalty: Weight of the coefficients' difference.
        width: Width of the density kernel that chooses the candidates.
        quantile: Share of the vectors that are too lonely to be candidates.

    Returns:
        Indices of the chosen vectors in order, (count,) int64; empty for n = 0. Where no vector passes the density
        test (a single vector, or all alike), every vector is a candidate.
    """
    if len(student) == 0:
        return torch.zeros(0, dtype=torch.long, device=student.device)
    student, teacher = unit(student, (1,)), unit(teacher, (1,))
    candidates = dense_in_both(student, teacher, width, quantile)
    if len(candidates) == 0:
        candidates = torch.arange(len(student), device=student.device)
    rest_s, rest_t = student, teacher
    chosen = []
    for _ in range(count):
        w_s, w_t = _coefficients(student[candidates], teacher[candidates], rest_s, rest_t, penalty)
        cost = _leftover(rest_s, student[candidates], w_s) + _leftover(rest_t, teacher[candidates], w_t)
        best = (cost + penalty * (w_s - w_t).square()).sum(1).argmin()
        index = candidates[best]
        rest_s = rest_s - w_s[best][:, None] * student[index]
        rest_t = rest_t - w_t[best][:, None] * teacher[index]
        chosen.append(index)
    return torch.stack(chosen)


def _coefficients(
    atoms_s: Tensor, atoms_t: Tensor, rest_s: Tensor, rest_t: Tensor, penalty: float
) -> tuple[Tensor, Tensor]:
    """Coefficients (K, n) of every candidate for every residual in both spaces."""
    i_s, i_t = atoms_s @ rest_s.T, atoms_t @ rest_t.T
    shared = penalty * (i_s + i_t)
    return (shared + i_s) / (1 + 2 * penalty), (shared + i_t) / (1 + 2 * penalty)


def _leftover(rest: Tensor, atoms: Tensor, weights: Tensor) -> Tensor:
    """``|R_j - w_kj a_k|^2`` for unit atoms a: (K, n)."""
    return rest.square().sum(1)[None] - 2 * weights * (atoms @ rest.T) + weights.square()
