"""Runs for Weights & Biases; without a key or network they are kept offline, for ``wandb sync`` at another time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdflow.errors import without_passwords
from kdflow.events import EvaluationEvent, PullEvent, RunEnded, RunStarted, StepEvent, WeightEvent
from kdflow.tracking.run import RunFacts, flat, step_metrics
from kdflow.tracking.trackers import tracker

_KEPT = frozenset({".json", ".yaml", ".yml", ".py", ".svg", ".txt"})
"""Small files that are handed over; weights stay in the run's folder."""


@tracker("wandb", package="wandb")
class WandbTracker:
    """A run of Weights & Biases, offline unless WANDB_MODE or WANDB_API_KEY is set; its files lie in the run's folder ``wandb``.

    The project is ``kdflow`` (or ``WANDB_PROJECT``), the group the bench, the id the run's hash: a run that goes on from a
    checkpoint goes on in the same one.

    Args:
        facts: The run.
        folder: Its folder.
    """

    def __init__(self, facts: RunFacts, folder: Path) -> None:
        self.facts = facts
        self.folder = folder
        self._run: Any = None

    def run_started(self, event: RunStarted) -> None:
        """Open the run."""
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        facts = self.facts
        quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "kdflow"),
            name=f"{facts.method} seed {facts.seed}",
            group=facts.bench,
            job_type=facts.kind,
            id=facts.run_hash or None,
            resume="allow" if event.resumed_from_step else None,
            dir=str(self.folder),
            mode=self._mode(),
            reinit="create_new",
            config={**flat(facts.spec), **flat(facts.params), **facts.tags()},
            tags=sorted({facts.method[:64], *(node[:64] for node in facts.nodes)}),
            settings=quiet,
        )
        self._run.define_metric("*", step_metric="step")

    def weights_changed(self, event: WeightEvent) -> None:
        """Log them as ``weight/<term>``."""
        self._run.log({"step": event.step, **{f"weight/{one.term}": one.after for one in event.changes}})

    def pulls_known(self, event: PullEvent) -> None:
        """Log them as ``pull/<term>``."""
        self._run.log({"step": event.step, **{f"pull/{one.term}": one.pull for one in event.pulls}})

    def step_ended(self, event: StepEvent) -> None:
        """Log the numbers of a step that was not logged before the run was resumed."""
        if not event.repeated:
            self._run.log({"step": event.step, **step_metrics(event, self.facts.terms)})

    def evaluation_ended(self, event: EvaluationEvent) -> None:
        """Log the metrics under ``val/``."""
        if not event.repeated:
            self._run.log({"step": event.step, **{f"val/{name}": value for name, value in event.metrics.items()}})

    def run_ended(self, event: RunEnded) -> None:
        """Close the run; a finished training stays open for its result."""
        if self._run is None:
            return
        self._run.summary["status"] = event.status
        if event.reason:
            self._run.summary["reason"] = without_passwords(event.reason)
        if event.status != "finished":
            self._close(1)

    def finish(self, metrics: Mapping[str, float], artifacts: Iterable[Path] = (), split: str = "test") -> None:
        """The reported numbers become the run's summary."""
        if self._run is None:
            return
        for name, value in metrics.items():
            if math.isfinite(value):
                self._run.summary[f"{split}/{name.removeprefix(f'{split}/')}"] = value
        for path in artifacts:
            self.file(path)
        self._close(0)

    def text(self, name: str, content: str) -> None:
        """Keep a small text as a file of the run."""
        if self._run is not None:
            place = Path(self._run.dir) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content, encoding="utf-8")

    def file(self, path: Path, folder: str = "") -> None:
        """Keep a small file; weights stay where they are."""
        if path.suffix in _KEPT and path.is_file():
            self.text(f"{folder}/{path.name}" if folder else path.name, path.read_text(encoding="utf-8"))

    def _mode(self) -> Any:
        given = os.environ.get("WANDB_MODE")
        return given or ("online" if os.environ.get("WANDB_API_KEY") else "offline")

    def _close(self, code: int) -> None:
        self._run.finish(exit_code=code)
        self._run = None
