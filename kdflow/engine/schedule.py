"""The learning rate over time, as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

from kdflow.spec.bench import Schedule

ONE_CYCLE_RISE = 0.3
"""Part of a one-cycle run in which the rate rises when the recipe gives no warm-up."""


def learning_rate(schedule: Schedule, total_steps: int) -> Callable[[int], float]:
    """Factor on the learning rate at each step (0-based) of a training of ``total_steps``.

    - ``constant``: 1.
    - ``step``: times ``factor`` from each milestone on; milestones up to 1 are fractions of the run, above 1 steps.
    - ``cosine``, ``linear``: from 1 after the warm-up down to ``final_factor`` at the end, along half a cosine or a
      line.
    - ``one_cycle``: up along half a cosine from ``warmup_factor`` during the warm-up (30 % of the run if none is given),
      then down along half a cosine to ``final_factor``.

    In the others the warm-up is a line from ``warmup_factor`` to 1 that multiplies the schedule.
    """
    if schedule.name == "one_cycle":
        return lambda step: _one_cycle(schedule, step, total_steps)
    main = {
        "constant": lambda step: 1.0,
        "step": lambda step: _drops(schedule, step, total_steps),
        "cosine": lambda step: _blend(schedule.final_factor, _half_cosine(_progress(schedule, step, total_steps))),
        "linear": lambda step: _blend(schedule.final_factor, 1 - _progress(schedule, step, total_steps)),
    }[schedule.name]
    return lambda step: _warmup(schedule, step) * main(step)


def first_drop(schedule: Schedule, total_steps: int) -> int | None:
    """The first step of a training of ``total_steps`` whose learning rate is below an earlier one; None where none is."""
    if schedule.name == "constant":
        return None
    if schedule.name == "step":
        first = min(round(m * total_steps if m <= 1 else m) for m in schedule.milestones)
    elif schedule.final_factor == 1:
        return None
    else:
        rise = round(ONE_CYCLE_RISE * total_steps) if schedule.name == "one_cycle" else 0
        first = (schedule.warmup or rise) + 1
    return first if first < total_steps else None


def _warmup(schedule: Schedule, step: int) -> float:
    if step >= schedule.warmup:
        return 1.0
    return _blend(schedule.warmup_factor, step / schedule.warmup)


def _drops(schedule: Schedule, step: int, total: int) -> float:
    passed = sum(step >= round(m * total if m <= 1 else m) for m in schedule.milestones)
    return schedule.factor**passed


def _progress(schedule: Schedule, step: int, total: int) -> float:
    """0 at the end of the warm-up, 1 at the end of the run."""
    return min(max(step - schedule.warmup, 0) / max(total - schedule.warmup, 1), 1.0)


def _one_cycle(schedule: Schedule, step: int, total: int) -> float:
    rise = schedule.warmup or round(ONE_CYCLE_RISE * total)
    if step < rise:
        return _blend(schedule.warmup_factor, 1 - _half_cosine(step / rise))
    return _blend(schedule.final_factor, _half_cosine(min((step - rise) / max(total - rise, 1), 1.0)))


def _half_cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _blend(low: float, share: float) -> float:
    """``low`` at share 0, 1 at share 1."""
    return low + (1 - low) * share
