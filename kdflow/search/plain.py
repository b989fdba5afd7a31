"""The student without distillation, beside every search: what trials are measured against, and how much seeds alone move it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist, mean, stdev
from typing import Any

import optuna

from kdflow.errors import KdflowError
from kdflow.search.objective import RunObjective
from kdflow.search.queue import Queue
from kdflow.search.worker import InterruptedTrialError, Notify
from kdflow.spec.metrics import COSTS

KEY = "plain"
SEEDS = 3
"""Seeds of the student without distillation, unless told."""
SURE = 0.95
"""Chance that the best of so many trials without any effect stays below what is called beyond noise."""


@dataclass(frozen=True)
class Plain:
    """What the student without distillation reached on the validation split.

    Attributes:
        metric: The first objective.
        values: Seed -> value.
        trials: Complete trials that are measured against it.
        best: Value of the best of these; None where none is complete.
        number: Its number.
    """

    metric: str = ""
    values: Mapping[int, float] = field(default_factory=dict)
    trials: int = 0
    best: float | None = None
    number: int = -1

    @property
    def mean(self) -> float:
        """Over seeds."""
        return mean(self.values.values())

    @property
    def luck(self) -> float | None:
        """What the luckiest of as many trials would reach if none had any effect; None where noise is not known.

        Trials and seeds are taken for draws of one normal distribution, whose spread is that of the seeds.
        """
        count = len(self.values)
        if count < 2 or not self.trials:
            return None
        spread = stdev(self.values.values()) * math.sqrt(1 + 1 / count)
        return self.mean + spread * NormalDist().inv_cdf(SURE ** (1 / self.trials))

    @property
    def differs(self) -> bool | None:
        """Whether the best trial is better than luck explains; None where that is not known."""
        return None if self.luck is None or self.best is None else self.best > self.luck

    @property
    def words(self) -> tuple[str, ...]:
        """What is known, in sentences."""
        if not self.values:
            return ()
        seeds = ", ".join(map(str, sorted(self.values)))
        spread = f" +- {stdev(self.values.values()):.2f}" if len(self.values) > 1 else ""
        said = f"without distillation, validation: {self.metric} {self.mean:.2f}{spread} (seed{'s' * bool(spread)} {seeds})"
        if self.luck is None or self.best is None:
            unknown = "the noise over seeds is not known: --plain-seeds 3 measures it" if len(self.values) < 2 else ""
            return tuple(filter(None, (said, unknown)))
        lucky = f"by luck alone the best of {self.trials} would reach up to {self.luck:.2f}"
        if self.differs:
            return said, f"trial {self.number} is better than that beyond noise: {self.best:.2f}; {lucky}"
        return said, f"no trial differs from that beyond noise: the best has {self.best:.2f}, and {lucky}"

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        known = {"luck": self.luck, "differs": self.differs} if self.values else {}
        return {"metric": self.metric, "values": dict(self.values), "trials": self.trials, "best": self.best, **known}


def run_plain(objective: RunObjective, queue: Queue, seeds: int, notify: Notify, anyway: bool = False) -> None:
    """Train the student without distillation on the seeds that are missing, as one of the study's workers.

    Args:
        objective: Knows the settings of the trials.
        queue: The study.
        seeds: How many, from the study's own on.
        notify: Receives a line per run.
        anyway: Take over what another worker has begun.
    """
    metric = objective.metrics[0]
    if metric in COSTS:
        return
    first = int(objective.settings["seed"])
    for seed in range(first, first + seeds):
        known = _known(queue.study).get(str(seed))
        if known is not None and ("value" in known or not (anyway or known["worker"] == queue.worker)):
            continue
        _keep(queue.study, seed, {"worker": queue.worker})
        try:
            value = objective.plain(seed).validation[metric]
        except InterruptedTrialError:
            raise
        except KdflowError as error:
            notify(f"without distillation, seed {seed}: {str(error).splitlines()[0]}")
            continue
        _keep(queue.study, seed, {"worker": queue.worker, "value": value})
        notify(f"without distillation, seed {seed}: {metric} {value:.2f}")


def plain_of(queue: Queue, metrics: tuple[str, ...]) -> Plain:
    """What is known of the student without distillation, and of the best trial beside it."""
    values = {int(seed): entry["value"] for seed, entry in _known(queue.study).items() if "value" in entry}
    complete = queue.trials(optuna.trial.TrialState.COMPLETE)
    best = max(complete, key=lambda trial: (trial.values[0], -trial.number)) if complete else None
    found = (best.values[0], best.number) if best is not None else (None, -1)
    return Plain(metrics[0], values, len(complete), *found)


def _known(study: optuna.Study) -> dict[str, Any]:
    return {key.removeprefix(f"{KEY} "): value for key, value in study.user_attrs.items() if key.startswith(f"{KEY} ")}


def _keep(study: optuna.Study, seed: int, entry: Mapping[str, Any]) -> None:
    study.set_user_attr(f"{KEY} {seed}", dict(entry))
