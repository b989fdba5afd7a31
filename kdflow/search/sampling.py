"""Samplers and pruners by name."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from kdflow.errors import MissingPackageError, UsageError, choices
from kdflow.search.space import Space

SamplerName: TypeAlias = Literal["tpe", "nsga2", "cmaes", "random", "grid", "gp"]
PrunerName: TypeAlias = Literal["median", "hyperband", "none"]
SAMPLERS: tuple[SamplerName, ...] = ("tpe", "nsga2", "cmaes", "random", "grid", "gp")
PRUNERS: tuple[PrunerName, ...] = ("median", "hyperband", "none")
STARTUP = 4
"""Trials that are never pruned, because there is nothing to compare them with."""


class GridSampler(BaseSampler):
    """The n-th point of a grid for the n-th trial, whoever runs it.

    Args:
        points: Parameters of every trial.
    """

    def __init__(self, points: Sequence[Mapping[str, Any]]) -> None:
        self.points = points

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is drawn jointly."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is drawn jointly."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The point's value."""
        return self.points[trial.number % len(self.points)][param_name]


def make_sampler(name: str, space: Space, seed: int, trials: int, several: bool = False) -> BaseSampler:
    """A sampler.

    It is made anew for every trial from a seed of its own: what it learns it reads from the storage, so workers need not know of
    each other and never draw the same numbers.

    Args:
        name: One of :data:`SAMPLERS`.
        space: What is searched.
        seed: Seed of this trial.
        trials: Trials of the study; bounds a grid, and the generations of ``nsga2``.
        several: There is more than one objective.

    Raises:
        UsageError: An unknown name, or a sampler that cannot search this space.
        MissingPackageError: The sampler's package is not installed.
    """
    if name == "grid":
        return GridSampler(space.grid(trials))
    if name == "cmaes":
        _require_cmaes(several)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True, multivariate=True)
        if name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=population_of(trials))
        if name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed)
        if name == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    raise UsageError(f'no sampler "{name}".{choices(name, SAMPLERS)}')


def population_of(trials: int) -> int:
    """Trials of one generation: a fifth of the study, between 4 and Optuna's 50, so that a short study evolves too."""
    return max(4, min(50, trials // 5))


def make_pruner(name: str, total_steps: int, evaluate_every: int) -> optuna.pruners.BasePruner:
    """A pruner over training steps; raises UsageError for an unknown name.

    Args:
        name: One of :data:`PRUNERS`.
        total_steps: Steps of a trial.
        evaluate_every: Steps between evaluations.
    """
    if name == "none":
        return optuna.pruners.NopPruner()
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=0, interval_steps=1)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=evaluate_every, max_resource=total_steps, reduction_factor=3)
    raise UsageError(f'no pruner "{name}".{choices(name, PRUNERS)}')


def _require_cmaes(several: bool) -> None:
    if several:
        raise UsageError("cmaes has one objective; with several --metric take nsga2, tpe, gp, random or grid")
    if importlib.util.find_spec("cmaes") is None:
        raise MissingPackageError('--sampler cmaes needs the package cmaes: pip install cmaes (or "--sampler gp")')
