"""A tracker that keeps everything in memory: for notebooks and tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from kdflow.events import EvaluationEvent, PullEvent, RunEnded, RunStarted, StepEvent, WeightEvent
from kdflow.tracking.run import RunFacts, StoredRun, step_metrics
from kdflow.tracking.trackers import tracker


@tracker("memory")
class MemoryTracker:
    """Keeps the numbers of one run; the same interface as the MLflow tracker.

    Attributes:
        facts: The run.
        curves: Metric -> list of (step, value), in the order of arrival, a step at most once.
        texts: Name -> content.
        files: Paths that were handed over.
        tags: Words about the run.
        status: ``running``, then how the run ended.
    """

    def __init__(self, facts: RunFacts, folder: Path | None = None) -> None:
        self.facts = facts
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.texts: dict[str, str] = {}
        self.files: list[Path] = list(facts.artifacts)
        self.tags: dict[str, str] = facts.tags()
        self.status = "running"
        self.started = ""

    def run_started(self, event: RunStarted) -> None:
        """Remember when, where and from which step."""
        self.started = self.started or datetime.now(UTC).isoformat(timespec="milliseconds")
        self.status = "running"
        self.tags["kdflow.folder"] = str(event.folder)
        if event.resumed_from_step:
            self.tags["kdflow.resumed_from_step"] = str(event.resumed_from_step)

    def weights_changed(self, event: WeightEvent) -> None:
        """Keep them as ``weight/<term>``."""
        self._keep(event.step, {f"weight/{one.term}": one.after for one in event.changes})

    def pulls_known(self, event: PullEvent) -> None:
        """Keep them as ``pull/<term>``."""
        self._keep(event.step, {f"pull/{one.term}": one.pull for one in event.pulls})

    def step_ended(self, event: StepEvent) -> None:
        """Keep the numbers of a step that is not there yet."""
        self._keep(event.step, step_metrics(event, self.facts.terms))

    def evaluation_ended(self, event: EvaluationEvent) -> None:
        """Keep the metrics under ``val/``."""
        self._keep(event.step, {f"val/{name}": value for name, value in event.metrics.items()})

    def run_ended(self, event: RunEnded) -> None:
        """Keep the status."""
        self.status = event.status
        if event.reason:
            self.tags["kdflow.reason"] = event.reason

    def finish(self, metrics: Mapping[str, float], artifacts: Iterable[Path] = (), split: str = "test") -> None:
        """Keep the reported numbers and the paths of files."""
        self._keep(self._last_step(), metrics)
        self.files += artifacts
        self.tags["kdflow.split"] = split
        self.status = "finished"

    def text(self, name: str, content: str) -> None:
        """Keep a text."""
        self.texts[name] = content

    def file(self, path: Path, folder: str = "") -> None:
        """Keep the path of a file."""
        self.files.append(path)

    def stored(self) -> StoredRun:
        """The run as a store would give it back."""
        last = {name: curve[-1][1] for name, curve in self.curves.items()}
        return StoredRun(f"memory-{id(self):x}", self.status, self.started, dict(self.tags), last)

    def _keep(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            curve = self.curves.setdefault(name, [])
            if not curve or curve[-1][0] < step:
                curve.append((step, value))

    def _last_step(self) -> int:
        return max((curve[-1][0] for curve in self.curves.values()), default=0)
