"""Schedules: how a term's weight changes during training. Several of them multiply.

    schedule: {warmup: 500}                         linear from 0 over 500 steps
    schedule: {decay: linear}                       1 - epoch / epochs
    schedule: {warmup: {steps: 2000, zero: 100}, stop: 0.8}

Lengths of at most 1 are fractions of the run, larger ones are steps; ``lr_drop`` is where the learning rate first falls.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from kdflow.errors import choices
from kdflow.options import from_signature
from kdflow.spec.bench import MAX_STEPS
from kdflow.spec.faults import validate
from kdflow.spec.load import Document, Steps

Length = Annotated[float, Field(ge=0, le=MAX_STEPS)]
Some = Annotated[float, Field(gt=0, le=MAX_STEPS)]
"""A length that is not nothing."""
LR_DROP = "lr_drop"
"""The step at which the learning rate is lower than before for the first time, in place of a length."""
LrDrop = Literal["lr_drop"]
Share = Annotated[float, Field(gt=0, le=1)]
Level = Annotated[float, Field(ge=0, le=1e6)]


@dataclass(frozen=True)
class Progress:
    """Where a run stands: optimizer steps done, steps in all, steps per epoch, and the step at which the learning rate drops."""

    step: int
    total: int
    per_epoch: int
    lr_drop: float = math.inf

    def at(self, length: float | LrDrop, most: float = 1) -> float:
        """A length in steps: a fraction of the run up to 1, steps above; never more than the share ``most`` of the run."""
        if isinstance(length, str):
            return self.lr_drop
        steps = length * self.total if length <= 1 else length
        return min(steps, most * self.total) if most < 1 else steps

    @property
    def epochs_done(self) -> float:
        """Whole epochs done as a fraction of all epochs."""
        epochs = max(1, math.ceil(self.total / max(1, self.per_epoch)))
        return (self.step // max(1, self.per_epoch)) / epochs

    @property
    def done(self) -> float:
        """Steps done as a fraction of all steps."""
        return self.step / max(1, self.total)


def warmup(at: Progress, steps: Length, zero: Length = 0, most: Share = 1.0) -> float:
    """0 for ``zero`` steps, then linear to 1 over ``steps``, but at most the share ``most`` of the run."""
    start, length = at.at(zero), at.at(steps, most)
    return min(1.0, max(0.0, (at.step - start) / length)) if length else 1.0


def decay(
    at: Progress,
    shape: Literal["linear", "cosine", "up_down"] = "linear",
    by: Literal["epoch", "step"] = "epoch",
    final_factor: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> float:
    """From 1 to ``final_factor`` (f): linearly, as half a cosine, or up to 2 - f at a quarter of the run and then down."""
    done = at.epochs_done if by == "epoch" else at.done
    return final_factor + (1 - final_factor) * _falling(shape, done)


def _falling(shape: Literal["linear", "cosine", "up_down"], done: float) -> float:
    """From 1 to 0."""
    if shape == "linear":
        return 1 - done
    if shape == "cosine":
        return 0.5 * math.cos(math.pi * done) + 0.5
    return 1 + 4 * done if done < 0.25 else 2 * (1 - done) / 0.75


def defer(at: Progress, until: Length | LrDrop, most: Share = 1.0) -> float:
    """0 before ``until`` (``lr_drop``: until the learning rate falls), or before the share ``most`` of the run; then 1."""
    return float(at.step >= at.at(until, most))


def stop(at: Progress, after: Some | LrDrop, most: Share = 1.0) -> float:
    """1 until ``after`` (``lr_drop``: until the learning rate falls), or until the share ``most`` of the run; then 0."""
    return float(at.step < at.at(after, most))


def drop(
    at: Progress,
    milestones: Annotated[tuple[Some, ...], Field(min_length=1)],
    factor: Annotated[float, Field(ge=0, lt=1)] = 0.1,
) -> float:
    """Times ``factor`` at every milestone."""
    return factor ** sum(at.step >= at.at(m) for m in milestones)


def ramp(at: Progress, low: Level = 0.0, high: Level = 1.0) -> float:
    """Linear from ``low`` to ``high`` over the run."""
    return low + (high - low) * at.done


SCHEDULES: Mapping[str, Callable[..., float]] = {f.__name__: f for f in (warmup, decay, defer, stop, drop, ramp)}


@dataclass(frozen=True)
class Schedule:
    """A product of schedules, as a function of the step."""

    parts: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()

    def factor(self, at: Progress) -> float:
        """The factor on the weight at this step."""
        product = 1.0
        for name, options in self.parts:
            product *= SCHEDULES[name](at, **dict(options))
        return product

    def times(self, other: Schedule) -> Schedule:
        """The product of both."""
        return Schedule((*self.parts, *other.parts))

    @property
    def asks_lr(self) -> bool:
        """True when it depends on where the learning rate drops."""
        return any(length == LR_DROP for _, options in self.parts for _, length in options)

    def ever_counts(
        self, total: int | None = None, per_epoch: int | None = None, first: int = 0, lr_drop: float = math.inf
    ) -> bool:
        """False when the factor is 0 at every step.

        Args:
            total: Steps of the run; None judges what the fractions of a run say, whatever its length.
            per_epoch: Steps of an epoch; None takes the run for one.
            first: The first step that counts.
            lr_drop: The step at which the learning rate drops.
        """
        if total is None and self.asks_lr:
            return True
        if total is None:
            if any(isinstance(length, (int, float)) and length > 1 for _, options in self.parts for _, length in options):
                return True  # a length in steps says nothing without the run's
            total = _NOMINAL
        run = (Progress(step, total, per_epoch or total, lr_drop) for step in range(first, total))
        return not self.parts or any(self.factor(at) != 0 for at in run)


_NOMINAL = 1000


def read_schedule(declared: Mapping[str, Any], document: Document, path: Steps) -> Schedule:
    """The schedule in a spec; faults go into the document.

    A plain value stands for the first option (``warmup: 500``, ``decay: linear``).
    """
    parts = []
    for name, value in declared.items():
        if name not in SCHEDULES:
            document.report((*path, name), f'no schedule "{name}".{choices(name, SCHEDULES)}')
            continue
        model = option_model(name)
        first = next(iter(model.model_fields))
        options = validate(model, value if isinstance(value, dict) else {first: value}, document, (*path, name))
        if options is not None:
            parts.append((name, tuple(options.model_dump().items())))
    return Schedule(tuple(parts))


def option_model(name: str) -> type[BaseModel]:
    """Pydantic model of a schedule's options, read off its signature."""
    function = SCHEDULES[name]
    return from_signature(name, function, without={next(iter(inspect.signature(function).parameters))})
