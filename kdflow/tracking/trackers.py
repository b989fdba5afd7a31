"""Trackers by name, and those of one run together: MLflow, which keeps the record, and others beside it."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kdflow.errors import KdflowError, UsageError, without_passwords
from kdflow.events import EvaluationEvent, PullEvent, RunEnded, RunStarted, StepEvent, StopRun, WeightEvent
from kdflow.registry import Registry
from kdflow.tracking.run import RunFacts, Tracker

RECORD = "mlflow"
"""Every run has this tracker: results are read from it."""

_log = logging.getLogger("kdflow.tracking")
M = TypeVar("M", bound=Callable[[RunFacts, Path], Tracker])


@dataclass(frozen=True)
class TrackerSort:
    """A tracker that runs can be written to.

    Attributes:
        make: ``make(facts, folder)``: writes into the run's ``folder``, or to where its own settings say; touches nothing before
            the run starts.
        doc: One line for listings.
        package: What has to be installed for it; empty: nothing.
    """

    make: Callable[[RunFacts, Path], Tracker]
    doc: str
    package: str = ""


TRACKERS: Registry[TrackerSort] = Registry("tracker", "kdflow.tracking")


def tracker(name: str, package: str = "") -> Callable[[M], M]:
    """Register a class or function that makes a tracker; its docstring's first line is shown in listings."""

    def register(make: M) -> M:
        TRACKERS.add(name, TrackerSort(make, (make.__doc__ or "").partition("\n")[0], package))
        return make

    return register


def chosen_trackers(named: Sequence[str] | None = None) -> tuple[str, ...]:
    """Trackers beside the record, each once: the named ones, else those of ``$KDFLOW_TRACKERS`` (``tensorboard,wandb``).

    Raises:
        UsageError: There is none of that name, or its package is not installed.
    """
    given = os.environ.get("KDFLOW_TRACKERS", "").split(",") if named is None else named
    names = tuple(dict.fromkeys(name.strip() for name in given if name.strip() not in ("", RECORD)))
    for name in names:
        try:
            package = TRACKERS.get(name).package
        except KdflowError as error:
            raise UsageError(str(error)) from error
        if package and importlib.util.find_spec(package) is None:
            raise UsageError(f'the tracker "{name}" needs the package "{package}". Next: pip install {package}')
    return names


class Beside:
    """Others that are told what the record is told. One that fails is named once and left out; the run goes on.

    Args:
        trackers: Name -> tracker.
    """

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._living = dict(trackers)

    def run_started(self, event: RunStarted) -> None:
        """Tell all."""
        self._tell(lambda one: one.run_started(event))

    def weights_changed(self, event: WeightEvent) -> None:
        """Tell all."""
        self._tell(lambda one: one.weights_changed(event))

    def pulls_known(self, event: PullEvent) -> None:
        """Tell all."""
        self._tell(lambda one: one.pulls_known(event))

    def step_ended(self, event: StepEvent) -> None:
        """Tell all."""
        self._tell(lambda one: one.step_ended(event))

    def evaluation_ended(self, event: EvaluationEvent) -> None:
        """Tell all."""
        self._tell(lambda one: one.evaluation_ended(event))

    def run_ended(self, event: RunEnded) -> None:
        """Tell all."""
        self._tell(lambda one: one.run_ended(event))

    def finish(self, metrics: Mapping[str, float], artifacts: Iterable[Path] = (), split: str = "test") -> None:
        """Tell all."""
        files = list(artifacts)
        self._tell(lambda one: one.finish(metrics, files, split))

    def text(self, name: str, content: str) -> None:
        """Hand it to all."""
        self._tell(lambda one: one.text(name, content))

    def file(self, path: Path, folder: str = "") -> None:
        """Hand it to all."""
        self._tell(lambda one: one.file(path, folder))

    def _tell(self, say: Callable[[Tracker], None]) -> None:
        for name, one in list(self._living.items()):
            try:
                say(one)
            except StopRun:
                raise
            except Exception as error:  # trackers call foreign code
                del self._living[name]
                words = without_passwords((str(error) or type(error).__name__).splitlines()[0])
                _log.warning("the tracker %s failed and is left out from here on: %s", name, words)
                with suppress(Exception):
                    one.run_ended(RunEnded("failed", 0, words))


def beside(names: Sequence[str], facts: RunFacts, folder: Path) -> Beside:
    """The trackers of these names for one run."""
    return Beside({name: TRACKERS.get(name).make(facts, folder) for name in names})
