"""Mixtures of two normal distributions on a line, fitted to many small samples at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

VARIANCE_FLOOR = 1e-6


class Mixture(NamedTuple):
    """What a fit says of every number.

    Attributes:
        first: (G, K) True where the first component is the likelier one.
        log_density: (G, K) of the whole mixture.
    """

    first: Tensor
    log_density: Tensor


def two_normals(values: Tensor, valid: Tensor, tolerance: float = 1e-3, steps: int = 100) -> Mixture:
    """Expectation maximisation of a mixture of two normals for every row; the first starts at the smallest number.

    It starts from the smallest and the largest number as means, weights of a half and variances of 1, and ends for a row when its
    mean log-likelihood changes by less than ``tolerance`` (scikit-learn's ``GaussianMixture`` and its rules). All in float64.

    Args:
        values: (G, K) samples.
        valid: (G, K) False for entries that are none.
        tolerance: Smallest change that goes on.
        steps: Most iterations.
    """
    known = valid.double()
    x = values.double().where(valid, 0.0)
    count = known.sum(1, keepdim=True).clamp(min=1)
    means = torch.stack([x.where(valid, torch.inf).amin(1), x.where(valid, -torch.inf).amax(1)], 1)
    means = means.where(valid.any(1, keepdim=True), 0.0)
    weights, variances = torch.full_like(means, 0.5), torch.ones_like(means)
    before = torch.full_like(count, -torch.inf)
    going = valid.any(1, keepdim=True)
    for _ in range(steps):
        joint = _joint(x, weights, means, variances)
        log_density = joint.logsumexp(2)
        mean = (log_density * known).sum(1, keepdim=True) / count
        shares = (joint - log_density[..., None]).exp() * known[..., None]
        mass = shares.sum(1) + 10 * torch.finfo(x.dtype).eps
        new_means = (shares * x[..., None]).sum(1) / mass
        new_variances = (shares * x[..., None] ** 2).sum(1) / mass - new_means**2 + VARIANCE_FLOOR
        weights = (mass / mass.sum(1, keepdim=True)).where(going, weights)
        means, variances = new_means.where(going, means), new_variances.where(going, variances)
        going = going & ((mean - before).abs() >= tolerance)
        before = mean
        if not going.any():
            break
    joint = _joint(x, weights, means, variances)
    return Mixture((joint[..., 0] >= joint[..., 1]) & valid, joint.logsumexp(2))


def _joint(x: Tensor, weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """(G, K, 2) log of weight times density."""
    squared = (x[..., None] - means[:, None]) ** 2 / variances[:, None]
    return weights.log()[:, None] - 0.5 * (math.log(2 * math.pi) + variances.log()[:, None] + squared)
