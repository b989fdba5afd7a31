"""Progress of a run on stderr: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdflow.cli.console import stderr_console
from kdflow.engine.hooks import EvaluationEvent, RunEnded, RunStarted, Silent, StepEvent

if TYPE_CHECKING:
    from rich.console import Console


class ProgressHook(Silent):
    """Shows what a run does.

    Args:
        title: Words in front of the bar (method, bench, seed).
        console: Where to write; stderr by default.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.title = title
        self.console = console or stderr_console()
        self._bar: Any = None
        self._task: Any = None

    def run_started(self, event: RunStarted) -> None:
        """Say where the run stands, and open the bar."""
        for sentence in event.notes:
            self._line(sentence)
        resumed = f", resumed from step {event.resumed_from_step}" if event.resumed_from_step else ""
        self._line(f"{self.title}: {event.total_steps} steps on {event.device}{resumed}")
        if self.console.is_terminal:
            self._bar = _bar(self.console)
            self._bar.start()
            self._task = self._bar.add_task(
                self.title, total=event.total_steps, completed=event.resumed_from_step, numbers=""
            )

    def step_ended(self, event: StepEvent) -> None:
        """Move on to this step."""
        numbers = f"loss {event.total:.4g}  {event.step_time * 1000:.0f} ms/step"
        if self._bar is not None:
            self._bar.update(self._task, completed=event.step, numbers=numbers)
        else:
            self._line(f"{self.title}: step {event.step}/{event.total_steps}  {numbers}")

    def evaluation_ended(self, event: EvaluationEvent) -> None:
        """Say the metric that chooses the best student."""
        best = ", the best so far" if event.is_best else ""
        self._line(f"{self.title}: {event.metric} {event.value:.2f} at step {event.step}{best}")

    def run_ended(self, event: RunEnded) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if event.status != "finished":
            self._line(f"{self.title}: {event.status} at step {event.step}: {event.reason}")

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _bar(console: Console) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
