"""The optimizer: parameter groups by name pattern, and the learning rate over time."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kdflow.engine.schedule import learning_rate
from kdflow.errors import UsageError, choices
from kdflow.spec import bench

STUDENT = "student."


def build_optimizer(
    recipe: bench.Optimizer, parameters: Mapping[str, nn.Parameter], fused: bool = False
) -> Optimizer:
    """The recipe's optimizer over ``parameters`` (by the plan's names: ``student.backbone...``, ``ops.aligned...``).

    A pattern of ``lr_factors`` is compared with the plan's name and, for the student, with the name without
    ``student.``; the first pattern that fits decides. ``no_decay_norms`` takes weight decay from parameters of at most
    one dimension. ``fused`` takes one kernel for all parameters, whatever the recipe says.

    Raises:
        UsageError: A pattern of ``lr_factors`` that fits no parameter, or nothing to train.
    """
    if not parameters:
        raise UsageError("optimizer: no parameter is left to train; check the phase's train: and what the bench freezes")
    _check_patterns(recipe.lr_factors, parameters)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = 0.0 if recipe.no_decay_norms and parameter.ndim <= 1 else recipe.weight_decay
        groups.setdefault((_factor(recipe.lr_factors, name), decay), []).append(parameter)
    listed = [{"params": p, "lr": recipe.lr * factor, "weight_decay": decay} for (factor, decay), p in groups.items()]
    if recipe.name == "sgd":
        return torch.optim.SGD(listed, lr=recipe.lr, momentum=recipe.momentum, fused=fused or recipe.fused or None)
    kind = torch.optim.Adam if recipe.name == "adam" else torch.optim.AdamW
    return kind(listed, lr=recipe.lr, fused=fused or recipe.fused or None)


def build_scheduler(schedule: bench.Schedule, optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """Multiplies every group's rate by :func:`~kdflow.engine.schedule.learning_rate`."""
    return LambdaLR(optimizer, learning_rate(schedule, total_steps))


def _factor(factors: Mapping[str, float], name: str) -> float:
    return next((factor for pattern, factor in factors.items() if fits(pattern, name)), 1.0)


def fits(pattern: str, name: str) -> bool:
    """True when a shell pattern fits a parameter of the plan, with or without the ``student.`` in front."""
    return fnmatchcase(name, pattern) or (name.startswith(STUDENT) and fnmatchcase(name.removeprefix(STUDENT), pattern))


def _check_patterns(factors: Mapping[str, float], names: Mapping[str, nn.Parameter]) -> None:
    for pattern in factors:
        if not any(fits(pattern, name) for name in names):
            parts = {name.removeprefix(STUDENT).split(".")[0] + ".*" for name in names}
            raise UsageError(f'recipe.optimizer.lr_factors: "{pattern}" fits no parameter.{choices(pattern, parts)}')
