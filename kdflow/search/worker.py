"""One worker: claims trials, has them carried out, and writes down what came of each."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from kdflow.errors import InvariantError, KdflowError
from kdflow.search.queue import Queue

Notify = Callable[[str], None]


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


class BrokenDeviceError(KdflowError):
    """The device gives errors from now on; the trial has failed, and this worker must end."""


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
        mine: Numbers of the trials that this worker finished.
    """

    queue: Queue
    objective: Callable[[optuna.Trial], Judged]
    sampler: Callable[[int], BaseSampler]
    notify: Notify = print
    deadline: float = math.inf
    poll: float = 2.0
    mine: list[int] = field(default_factory=list)

    def work(self) -> bool:
        """Run trials; True when the study is complete, False when the time is up.

        Trials that other workers run are waited for: should one of those workers die, its trial is taken over.

        Raises:
            KeyboardInterrupt, InterruptedTrialError: After the present trial went back into the queue.
            BrokenDeviceError: After the present trial was recorded as failed.
        """
        waiting = False
        while self.queue.finished < self.queue.size:
            if time.monotonic() > self.deadline:
                return False
            for number in self.queue.recover():
                self.notify(f"trial {number}: its worker died; the trial goes back into the queue")
            claimed = self.queue.claim()
            if claimed is not None:
                waiting = False
                self._run(claimed)
                continue
            if not waiting:
                self.notify("all trials are taken; waiting for the other workers")
                waiting = True
            time.sleep(min(self.poll, max(self.deadline - time.monotonic(), 0.0)))
        return True

    def _run(self, number: int) -> None:
        study = self.queue.study
        study.sampler = self.sampler(number)
        trial = self.queue.trial(number)
        try:
            with self.queue.alive(number):
                judged = self._judge(trial)
        except (KeyboardInterrupt, InterruptedTrialError):
            self.queue.put_back(number)
            self.notify(f"trial {number}: interrupted; it goes back into the queue")
            raise
        except BrokenDeviceError as error:
            self._tell(trial, TrialState.FAIL, None, str(error))
            raise
        except Exception as error:
            self._tell(trial, TrialState.FAIL, None, reason_of(error))
            return
        for key, value in judged.facts.items():
            trial.set_user_attr(key, value)
        if judged.values is None:
            self._tell(trial, TrialState.PRUNED, None, judged.pruned)
        elif not all(map(math.isfinite, judged.values)):
            self._tell(trial, TrialState.FAIL, None, f"not finite: {', '.join(map(str, judged.values))}")
        else:
            self._tell(trial, TrialState.COMPLETE, judged.values, "")

    def _judge(self, trial: optuna.Trial) -> Judged:
        try:
            return self.objective(trial)
        except RuntimeError as error:
            if "CUDA error" not in str(error):
                raise
            words = f"device error: {str(error).splitlines()[0]}"
            raise BrokenDeviceError(f"{words}. Next: start this worker again with --resume") from error

    def _tell(self, trial: optuna.Trial, state: TrialState, values: Sequence[float] | None, reason: str) -> None:
        """Finish a trial; a trial that another worker has finished meanwhile keeps that result."""
        number = trial.number
        try:
            trial.set_user_attr("reason", reason)
            self.queue.study.tell(trial, None if values is None else list(values), state)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            self.notify(f"trial {number}: another worker finished it meanwhile; that result counts")
            return
        self.mine.append(number)
        words = ", ".join(f"{value:.4g}" for value in values or ()) if state is TrialState.COMPLETE else reason
        done = f"{self.queue.finished}/{self.queue.size} done"
        self.notify(f"trial {number}: {state.name.lower()} {words} ({done})")


def reason_of(error: Exception) -> str:
    """Why a trial failed, in one line that begins with the sort of failure."""
    words = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return f"out of memory: {words}"
    if isinstance(error, InvariantError):
        return f"invariant: {words}"
    return f"refused: {words}" if isinstance(error, KdflowError) else f"error: {type(error).__name__}: {words}"


def worker_name() -> str:
    """Host and process, to tell workers apart."""
    return f"{socket.gethostname()}:{os.getpid()}"
