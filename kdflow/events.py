"""Six moments of a run at which others may look: started, weights changed, pulls known, step or evaluation ended, run ended.

Hooks run in the first process only. Everything they receive is plain Python, already off the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

EVEN = 1.5
"""A pull up to so many times above or below 1 needs no other weight."""


class StopRun(Exception):  # noqa: N818 - a signal, not an error
    """Raised by a hook to end the run early (a pruned trial); the run then ends as ``stopped``, with this reason."""


@dataclass(frozen=True)
class RunStarted:
    """The run is about to take its first step.

    Attributes:
        folder: Where checkpoints lie.
        total_steps: Length of the run.
        resumed_from_step: Steps taken over from a checkpoint; 0 for a fresh run.
        device: ``cpu`` or ``cuda:0``.
        world_size: Processes that train together.
        terms: Names of all terms.
        notes: Sentences for the log (what was guaranteed about teachers, which checkpoint was used).
        subject: What learns, where it is not the run's own student: ``teacher of shapes-fcos``.
    """

    folder: Path
    total_steps: int
    resumed_from_step: int
    device: str
    world_size: int
    terms: tuple[str, ...]
    notes: tuple[str, ...] = ()
    subject: str = ""


@dataclass(frozen=True)
class StepEvent:
    """Means over steps and ranks since the last such event (every ``log_every`` steps and at the end of a phase).

    Attributes:
        step: Steps done.
        total_steps: Length of the run.
        phase: Name of the phase, empty without phases.
        total: The loss that is minimised.
        raw: Each term before weight and schedule.
        weighted: What each term adds to the total.
        lr: Largest learning rate of the last step.
        step_time: Seconds per step.
        images_per_second: Over all processes.
        repeated: The step was already reported before the run was resumed; a logger should skip it.
        peak_memory: Most memory of the GPU that this process has held so far, in MiB, of the process that held most; None on a
            CPU, where nothing tells what a run holds from what lies in its process.
    """

    step: int
    total_steps: int
    phase: str
    total: float
    raw: Mapping[str, float]
    weighted: Mapping[str, float]
    lr: float
    step_time: float
    images_per_second: float
    repeated: bool = False
    peak_memory: float | None = None


@dataclass(frozen=True)
class Pull:
    """What is known of one term.

    Attributes:
        term: Its name.
        weight: Its weight before the schedule, as it was when the gradients were taken.
        pull: How many times as hard as the detector's losses it pulls.
    """

    term: str
    weight: float
    pull: float

    @property
    def even_weight(self) -> float:
        """The weight at which it would pull as hard as they do."""
        return abs(self.weight) / self.pull

    def __str__(self) -> str:
        words = f"{self.term} pulls {self.pull:.3g} x as hard as the detector's losses"
        if 1 / EVEN <= self.pull <= EVEN:
            return words
        return f"{words}; weight {self.even_weight:.2g} would give 1 x"


@dataclass(frozen=True)
class PullEvent:
    """How hard each distillation term pulls at the student is known, once in a phase.

    Attributes:
        step: Steps done.
        pulls: One entry per term that reaches the student (:mod:`kdflow.engine.pull`).
    """

    step: int
    pulls: tuple[Pull, ...]


@dataclass(frozen=True)
class WeightChange:
    """A weight that is no longer what it was.

    Attributes:
        term: Name of the term.
        before: Its weight before the schedule, as it was; the declared one at first.
        after: As it is now.
        reason: In words.
    """

    term: str
    before: float
    after: float
    reason: str

    def __str__(self) -> str:
        return f"{self.term}: weight {self.after:.4g}, {self.reason}"


@dataclass(frozen=True)
class WeightEvent:
    """Weights of terms are no longer what they were: set when a run or phase began, or changed by a controller.

    Attributes:
        step: Steps done.
        changes: One entry per term.
        calibrated: They were set by shares of the gradient, once; else a controller has changed them.
    """

    step: int
    changes: tuple[WeightChange, ...]
    calibrated: bool = False


@dataclass(frozen=True)
class EvaluationEvent:
    """The student was evaluated.

    Attributes:
        step: Steps done.
        metrics: Metric name -> value.
        metric: The one that chooses the best checkpoint.
        value: Its value.
        is_best: No earlier evaluation was better.
        repeated: As in :class:`StepEvent`.
    """

    step: int
    metrics: Mapping[str, float]
    metric: str
    value: float
    is_best: bool
    repeated: bool = False


@dataclass(frozen=True)
class RunEnded:
    """The run is over.

    Attributes:
        status: ``finished``, ``interrupted`` (SIGTERM; resumable), ``stopped`` (by a hook) or ``failed``.
        step: Steps done.
        reason: Words for every status but ``finished``.
    """

    status: str
    step: int
    reason: str = ""


class Hook(Protocol):
    """What a listener implements; :class:`Silent` does nothing at every moment and may be subclassed."""

    def run_started(self, event: RunStarted) -> None:
        """Before the first step."""
        ...

    def weights_changed(self, event: WeightEvent) -> None:
        """Before the first step of a run or phase that sets weights, and where a controller changes them."""
        ...

    def pulls_known(self, event: PullEvent) -> None:
        """Some steps after the start, and after the start of each phase."""
        ...

    def step_ended(self, event: StepEvent) -> None:
        """Every ``log_every`` steps."""
        ...

    def evaluation_ended(self, event: EvaluationEvent) -> None:
        """After each evaluation; may raise :class:`StopRun`."""
        ...

    def run_ended(self, event: RunEnded) -> None:
        """Once, whatever happened."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """A hook that has both is saved with every checkpoint, and loaded before :meth:`Hook.run_started` of a resumed run.

    A state holds tensors, numbers, text, and lists, tuples and dicts of them. It is that after the last event at or before the
    checkpoint's step; events behind it come again, marked as repeated.
    """

    def state_dict(self) -> Mapping[str, Any]:
        """All that it remembers."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what an earlier process's hook of this class gave."""
        ...


class Silent:
    """A hook that does nothing."""

    def run_started(self, event: RunStarted) -> None:
        """Nothing."""

    def weights_changed(self, event: WeightEvent) -> None:
        """Nothing."""

    def pulls_known(self, event: PullEvent) -> None:
        """Nothing."""

    def step_ended(self, event: StepEvent) -> None:
        """Nothing."""

    def evaluation_ended(self, event: EvaluationEvent) -> None:
        """Nothing."""

    def run_ended(self, event: RunEnded) -> None:
        """Nothing."""
