"""Weight inheritance: which finished trial's student a new one starts from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from kdflow.engine.checkpoint import BEST
from kdflow.search.space import Space
from kdflow.spec.method import SearchRange
from kdflow.spec.metrics import COSTS

KEY = "start"
"""User attribute of a trial: which one it started from, so that it does so again when it is repeated."""


@dataclass(frozen=True)
class Parents:
    """Finds the nearest finished trial, in the values of the student.

    Attributes:
        space: What is searched.
        metrics: Objectives; of equally near trials the better one in the first of them is taken.
    """

    space: Space
    metrics: Sequence[str]

    def start_of(self, trial: optuna.Trial, values: Mapping[str, Any]) -> Path | None:
        """The checkpoint that a trial starts from; None where no trial has finished whose student this worker can read."""
        known = trial.user_attrs.get(KEY)
        if known is not None and Path(known["file"]).is_file():
            return Path(known["file"])
        others = trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        readable = [(other, file) for other in others if (file := _student_of(other)) is not None]
        if not readable:
            return None
        nearest, file = min(readable, key=lambda one: self._rank(one[0], values))
        trial.set_user_attr(KEY, {"trial": nearest.number, "file": str(file)})
        return file

    def _rank(self, other: FrozenTrial, values: Mapping[str, Any]) -> tuple[float, float, int]:
        sign = 1.0 if self.metrics[0] in COSTS else -1.0
        return self.distance(values, self.space.values(other.params)), sign * other.values[0], other.number

    def distance(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
        """Sum over the paths of the student: how far two values are apart, as a share of the range."""
        paths = [path for path in self.space.ranges if path.startswith("student.") and path in one and path in other]
        return sum(apart(self.space.ranges[path], one[path], other[path]) for path in paths)


def _student_of(trial: FrozenTrial) -> Path | None:
    file = Path(str(trial.user_attrs.get("folder", ""))) / BEST
    return file if file.is_file() else None


def apart(entry: SearchRange, one: Any, other: Any) -> float:
    """0 for equal values, 1 for those farthest apart; words are equal or not, lists of numbers differ by all their entries."""
    if one == other:
        return 0.0
    if entry.low is not None and entry.high is not None:
        low, high, mine, theirs = (math.log(v) if entry.log else v for v in (entry.low, entry.high, one, other))
        return float(abs(mine - theirs) / (high - low))
    steps = [_steps(a, b) for a in entry.choices for b in entry.choices]
    if any(step is None for step in steps):
        return 1.0
    return float((_steps(one, other) or 0.0) / max(step for step in steps if step is not None))


def _steps(one: Any, other: Any) -> float | None:
    """How far numbers, or equally long lists of numbers, are apart; None for anything else."""
    pairs = [(one, other)] if not isinstance(one, (list, tuple)) else None
    if pairs is None:
        if not isinstance(other, (list, tuple)) or len(one) != len(other):
            return None
        pairs = list(zip(one, other))
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for pair in pairs for v in pair):
        return None
    return float(sum(abs(a - b) for a, b in pairs))
