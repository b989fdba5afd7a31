"""Runs for TensorBoard: ``tensorboard --logdir kdflow-runs``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdflow.errors import without_passwords
from kdflow.events import EvaluationEvent, PullEvent, RunEnded, RunStarted, StepEvent, WeightEvent
from kdflow.tracking.run import RunFacts, flat, step_metrics
from kdflow.tracking.trackers import tracker


@tracker("tensorboard", package="tensorboard")
class TensorBoardTracker:
    """Event files in the run's folder ``tensorboard``, one curve per metric, the filled spec as text.

    A run that goes on from a checkpoint takes back what was written after it; a fresh start deletes older event files.

    Args:
        facts: The run.
        folder: Its folder.
    """

    def __init__(self, facts: RunFacts, folder: Path) -> None:
        self.facts = facts
        self.folder = folder / "tensorboard"
        self._writer: Any = None
        self._step = 0

    def run_started(self, event: RunStarted) -> None:
        """Open the folder."""
        from torch.utils.tensorboard import SummaryWriter

        self._step = event.resumed_from_step
        if not event.resumed_from_step:
            for file in self.folder.glob("events.out.tfevents.*"):
                file.unlink()
        again = event.resumed_from_step + 1 if event.resumed_from_step else None
        self._writer = SummaryWriter(str(self.folder), purge_step=again)
        if not event.resumed_from_step:
            self.text("tags", _table(self.facts.tags()))
            self.text("settings", _table({**flat(self.facts.spec), **flat(self.facts.params)}))

    def weights_changed(self, event: WeightEvent) -> None:
        """Write them as ``weight/<term>``."""
        self._write(event.step, {f"weight/{one.term}": one.after for one in event.changes})

    def pulls_known(self, event: PullEvent) -> None:
        """Write them as ``pull/<term>``."""
        self._write(event.step, {f"pull/{one.term}": one.pull for one in event.pulls})

    def step_ended(self, event: StepEvent) -> None:
        """Write the numbers of a step."""
        self._write(event.step, step_metrics(event, self.facts.terms))

    def evaluation_ended(self, event: EvaluationEvent) -> None:
        """Write the metrics under ``val/``, and let readers see them."""
        self._write(event.step, {f"val/{name}": value for name, value in event.metrics.items()})
        self._writer.flush()

    def run_ended(self, event: RunEnded) -> None:
        """Write how it ended; a finished training stays open for its result."""
        if self._writer is None:
            return
        self.text("status", event.status + (f": {without_passwords(event.reason)}" if event.reason else ""))
        if event.status != "finished":
            self._close()

    def finish(self, metrics: Mapping[str, float], artifacts: Iterable[Path] = (), split: str = "test") -> None:
        """Write the reported numbers under the split's name."""
        if self._writer is None:
            return
        self._write(self._step, {f"{split}/{name.removeprefix(f'{split}/')}": value for name, value in metrics.items()})
        self._close()

    def text(self, name: str, content: str) -> None:
        """Write a text."""
        if self._writer is not None:
            self._writer.add_text(name, content, self._step)

    def file(self, path: Path, folder: str = "") -> None:
        """Files stay in the run's folder, beside the event files."""

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        self._step = max(self._step, step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def _close(self) -> None:
        self._writer.close()
        self._writer = None


def _table(values: Mapping[str, str]) -> str:
    """A table in Markdown."""
    rows = (f"| {_cell(key)} | {_cell(value)} |" for key, value in values.items())
    return "\n".join(["| name | value |", "|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
