"""One worker: claims trials, one or some at a time, has them carried out, and writes down what came of each."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from kdflow.errors import InvariantError, KdflowError
from kdflow.search.queue import Queue

Notify = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Judged:
    """What a carried-out trial brought.

    Attributes:
        values: One number per objective; none for a pruned trial.
        pruned: Why it was stopped early; empty for a trial that ran to its end.
        facts: Further plain data to keep with the trial.
    """

    values: Sequence[float] | None
    pruned: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class InterruptedTrialError(KdflowError):
    """The trial was asked to end before it was done; it goes back into the queue, and the worker ends."""


class HeldTrialError(KdflowError):
    """Another worker, which counted as dead, is at work on the trial; it goes back into the queue until that one ends."""


class ReportedError(KdflowError):
    """The trial failed for a reason that is told in words already."""


class BrokenDeviceError(KdflowError):
    """The device gives errors from now on; the trial has failed, and this worker must end."""


@dataclass(frozen=True)
class Drawn:
    """A trial with its values.

    Attributes:
        trial: The trial.
        values: Dotted path -> value.
        again: It had these values before: it was begun, and put back.
        start: Checkpoint with the student that this one's ``init:`` takes weights from.
    """

    trial: optuna.Trial
    values: Mapping[str, Any]
    again: bool
    start: Path | None = None


class Group(Protocol):
    """Carries out several trials at a time."""

    def draw(self, trial: optuna.Trial) -> Drawn:
        """Values for a trial, from the study's present sampler."""
        ...

    def side_by_side(self, drawn: Sequence[Drawn]) -> Sequence[Judged | Exception]:
        """What came of each trial, in order; what went wrong with one of them stands in its place."""
        ...


@dataclass
class Worker:
    """Runs trials until the study has all of them.

    Attributes:
        queue: The study's trials.
        objective: Carries out one trial.
        sampler: Trial number -> sampler for it.
        notify: Receives a line per trial.
        deadline: No trial begins after this time (of :func:`time.monotonic`).
        poll: Seconds between two looks at a queue in which nothing waits.
        group: Carries out several trials at a time; None where they run one by one.
        together: Most trials at a time.
        noun: What a trial is called.
        mine: Numbers of the trials that this worker finished.
        left: Numbers of the trials that a worker which counted as dead is still at work on.
    """

    queue: Queue
    objective: Callable[[optuna.Trial], Judged]
    sampler: Callable[[int], BaseSampler]
    notify: Notify = print
    deadline: float = math.inf
    poll: float = 2.0
    group: Group | None = None
    together: int = 1
    noun: str = "trial"
    mine: list[int] = field(default_factory=list)
    left: set[int] = field(default_factory=set)

    def work(self) -> bool:
        """Run trials; True when the study is complete, False when the time is up.

        Trials that other workers run are waited for: should one of those workers die, its trial is taken over.

        Raises:
            KeyboardInterrupt, InterruptedTrialError: After the present trials went back into the queue.
            BrokenDeviceError: After the present trial was recorded as failed.
        """
        waiting = False
        while self.queue.finished < self.queue.size:
            if time.monotonic() > self.deadline:
                return False
            for number in self.queue.recover():
                self.notify(f"{self.noun} {number}: its worker died; it goes back into the queue")
            claimed = self._claim()
            if claimed:
                waiting = False
                self._carry_out(claimed)
                if self.left.isdisjoint(claimed):
                    continue
            elif not waiting:
                self.notify(f"all {self.noun}s are taken; waiting for the other workers")
                waiting = True
            time.sleep(min(self.poll, max(self.deadline - time.monotonic(), 0.0)))
        return True

    def _claim(self) -> list[int]:
        """Up to ``together`` waiting trials that are now this worker's."""
        claimed: list[int] = []
        while len(claimed) < self.together and (number := self.queue.claim(self.left)) is not None:
            claimed.append(number)
        return claimed

    def _carry_out(self, numbers: Sequence[int]) -> None:
        try:
            with ExitStack() as stack:
                for number in numbers:
                    stack.enter_context(self.queue.alive(number))
                outcomes = self._outcomes(numbers)
        except KeyboardInterrupt:
            self._put_back(numbers)
            raise
        for number, outcome in zip(numbers, outcomes, strict=True):
            self._settle(number, outcome)
        for outcome in outcomes:
            if isinstance(outcome, InterruptedTrialError | BrokenDeviceError):
                raise outcome

    def _outcomes(self, numbers: Sequence[int]) -> Sequence[Judged | Exception]:
        group = self.group
        if group is None or len(numbers) == 1:
            return [self._attempt(number) for number in numbers]
        try:
            drawn = [group.draw(self._trial(number)) for number in numbers]
            return _watched(lambda: group.side_by_side(drawn))
        except Exception as error:
            return [error] * len(numbers)

    def _attempt(self, number: int) -> Judged | Exception:
        try:
            return _watched(lambda: self.objective(self._trial(number)))
        except Exception as error:
            return error

    def _trial(self, number: int) -> optuna.Trial:
        """A claimed trial; the study's sampler is the trial's own from now on."""
        self.queue.study.sampler = self.sampler(number)
        return self.queue.trial(number)

    def _put_back(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.queue.put_back(number)
            self.notify(f"{self.noun} {number}: interrupted; it goes back into the queue")

    def _leave(self, number: int, why: str) -> None:
        """Put a trial back that a living worker has; said once."""
        self.queue.put_back(number)
        if number not in self.left:
            self.notify(f"{self.noun} {number}: {why}")
        self.left.add(number)

    def _settle(self, number: int, outcome: Judged | Exception) -> None:
        """Write down what came of a trial."""
        trial = self.queue.trial(number)
        if isinstance(outcome, InterruptedTrialError):
            self._put_back([number])
        elif isinstance(outcome, HeldTrialError):
            self._leave(number, str(outcome))
        elif isinstance(outcome, Exception):
            reason = str(outcome) if isinstance(outcome, BrokenDeviceError) else reason_of(outcome)
            self._tell(trial, TrialState.FAIL, None, reason)
        else:
            self._keep(trial, outcome)

    def _keep(self, trial: optuna.Trial, judged: Judged) -> None:
        if judged.values is None:
            self._tell(trial, TrialState.PRUNED, None, judged.pruned, judged.facts)
        elif not all(map(math.isfinite, judged.values)):
            self._tell(trial, TrialState.FAIL, None, f"not finite: {', '.join(map(str, judged.values))}", judged.facts)
        else:
            self._tell(trial, TrialState.COMPLETE, judged.values, "", judged.facts)

    def _tell(
        self,
        trial: optuna.Trial,
        state: TrialState,
        values: Sequence[float] | None,
        reason: str,
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Finish a trial, also one that was taken from this worker; what another one has finished meanwhile stays as it is."""
        number = trial.number
        self.left.discard(number)
        self.queue.take_again(number)
        try:
            for key, value in {**facts, "reason": reason}.items():
                trial.set_user_attr(key, value)
            self.queue.study.tell(trial, None if values is None else list(values), state)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            self.notify(f"{self.noun} {number}: another worker finished it meanwhile; that result counts")
            return
        self.mine.append(number)
        words = ", ".join(f"{value:.4g}" for value in values or ()) if state is TrialState.COMPLETE else reason
        done = f"{self.queue.finished}/{self.queue.size} done"
        self.notify(f"{self.noun} {number}: {state.name.lower()} {words} ({done})")


def _watched(work: Callable[[], T]) -> T:
    """The work's result; BrokenDeviceError in place of an error that leaves the device unusable."""
    try:
        return work()
    except RuntimeError as error:
        if not breaks_device(error):
            raise
        words = f"device error: {str(error).splitlines()[0]}"
        raise BrokenDeviceError(f"{words}. Next: start this worker again with --resume") from error


def breaks_device(error: Exception) -> bool:
    """Whether the device gives errors from now on, whatever is asked of it."""
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def reason_of(error: Exception) -> str:
    """Why a trial failed, in one line that begins with the sort of failure."""
    words = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, ReportedError):
        return str(error)
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return f"out of memory: {words}"
    if isinstance(error, InvariantError):
        return f"invariant: {words}"
    return f"refused: {words}" if isinstance(error, KdflowError) else f"error: {type(error).__name__}: {words}"


def worker_name() -> str:
    """Host and process, to tell workers apart."""
    return f"{socket.gethostname()}:{os.getpid()}"
