"""Stretches of a run: which terms count and which parameters train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from kdflow.engine.protocols import Plan
from kdflow.errors import UsageError, choices
from kdflow.spec import method

EVERYTHING = ("*",)


@dataclass(frozen=True)
class Phase:
    """One stretch of training, with an optimizer and a learning-rate schedule of its own.

    Attributes:
        name: What ``plan.enter`` is told; empty for a run without declared phases.
        start: First step.
        end: Step after the last.
        terms: Patterns over term names (``kd/neck``, or ``neck``).
        train: Patterns over the plan's parameter names (``student.*``, ``ops.aligned.*``, ``teacher.*``).
    """

    name: str
    start: int
    end: int
    terms: tuple[str, ...] = EVERYTHING
    train: tuple[str, ...] = EVERYTHING

    @property
    def steps(self) -> int:
        """Length."""
        return self.end - self.start

    def counts(self, term: str) -> bool:
        """True when this term is active."""
        short = term.partition("/")[2]
        return any(fnmatchcase(term, p) or fnmatchcase(short, p) for p in self.terms)


def lay_out(phases: Sequence[method.Phase], total_steps: int) -> tuple[Phase, ...]:
    """Declared phases as ranges of steps; without any, one nameless phase over the run.

    Lengths up to 1 are fractions of ``total_steps``, of at least one step; the last phase takes what rounding leaves.

    Raises:
        UsageError: The phases do not add up to the run.
    """
    if not phases:
        return (Phase("", 0, total_steps),)
    lengths = [max(1, round(p.steps * total_steps)) if p.steps <= 1 else round(p.steps) for p in phases]
    rest = total_steps - sum(lengths)
    lengths[-1] += rest
    if abs(rest) > len(phases) or min(lengths) < 1:
        words = ", ".join(f"{p.name} {p.steps:g}" for p in phases)
        raise UsageError(
            f"phases: {words} do not add up to the run's {total_steps} steps; "
            "give fractions that sum to 1, or steps that sum to the recipe's length"
        )
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return tuple(
        Phase(p.name, start, start + length, tuple(p.terms), tuple(p.train))
        for p, start, length in zip(phases, starts, lengths, strict=True)
    )


def select_parameters(plan: Plan, phase: Phase, trainable: frozenset[str]) -> dict[str, nn.Parameter]:
    """Mark what trains in this phase and return it by name.

    Args:
        plan: The plan; parameters outside the phase's patterns stop requiring gradient.
        phase: The phase.
        trainable: Names of parameters that train when nothing restricts them.

    Raises:
        UsageError: A pattern that fits no parameter.
    """
    named = dict(plan.named_parameters())
    # A module may have no parameters on some detectors; naming it is no mistake.
    known = [*named, *(f"{name}." for name, _ in plan.named_modules() if name)]
    for pattern in phase.train:
        if not any(method.trains(pattern, name) for name in known):
            modules = [name.split(".")[:-1] for name in named]
            parts = {".".join([*path[:depth], "*"]) for path in modules for depth in (1, 2) if len(path) >= depth}
            raise UsageError(f'phases.{phase.name}.train: "{pattern}" fits no parameter.{choices(pattern, parts)}')
    for name, parameter in named.items():
        parameter.requires_grad_(name in trainable and any(method.trains(p, name) for p in phase.train))
    return {name: parameter for name, parameter in named.items() if parameter.requires_grad}
