"""Progress of a run on stderr: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdflow.cli.console import stderr_console
from kdflow.events import EvaluationEvent, PullEvent, RunEnded, RunStarted, Silent, StepEvent, WeightEvent

if TYPE_CHECKING:
    from rich.console import Console


class ProgressHook(Silent):
    """Shows what a run does.

    Args:
        title: Words in front of the bar (method, bench, seed), while the run's own student learns.
        console: Where to write; stderr by default.
        bars: Bars that several runs show at once; a bar of its own by default.
    """

    def __init__(self, title: str, console: Console | None = None, bars: Bars | None = None) -> None:
        self.title = title
        self.subject = title
        self.console = bars.console if bars else console or stderr_console()
        self.bars = bars or Bars(self.console)
        self._task: Any = None

    def run_started(self, event: RunStarted) -> None:
        """Say where the run stands, and open the bar."""
        self.subject = event.subject or self.title
        for sentence in event.notes:
            self._line(sentence)
        resumed = f", resumed from step {event.resumed_from_step}" if event.resumed_from_step else ""
        self._line(f"{self.subject}: {event.total_steps} steps on {event.device}{resumed}")
        if self.console.is_terminal or self.console.is_jupyter:
            self._task = self.bars.add(self.subject, event.total_steps, event.resumed_from_step)

    def weights_changed(self, event: WeightEvent) -> None:
        """Say which weights are others now, and why."""
        for change in event.changes:
            self._line(f"{self.subject}: {change}")

    def pulls_known(self, event: PullEvent) -> None:
        """Say of every term how hard it pulls."""
        for pull in event.pulls:
            self._line(f"{self.subject}: {pull}")

    def step_ended(self, event: StepEvent) -> None:
        """Move on to this step."""
        numbers = f"loss {event.total:.4g}{_parts(event)}  {event.step_time * 1000:.0f} ms/step"
        if self._task is not None:
            self.bars.update(self._task, event.step, numbers)
        else:
            self._line(f"{self.subject}: step {event.step}/{event.total_steps}  {numbers}")

    def evaluation_ended(self, event: EvaluationEvent) -> None:
        """Say the metric that chooses the best student."""
        best = ", the best so far" if event.is_best else ""
        self._line(f"{self.subject}: {event.metric} {event.value:.2f} at step {event.step}{best}")

    def run_ended(self, event: RunEnded) -> None:
        """Close the bar."""
        if self._task is not None:
            self.bars.remove(self._task)
            self._task = None
        if event.status != "finished":
            self._line(f"{self.subject}: {event.status} at step {event.step}: {event.reason}")

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _parts(event: StepEvent) -> str:
    """The detector's own losses and the distillation apart, where there are both."""
    own, taught = (
        [value for name, value in event.weighted.items() if name.startswith(group)] for group in ("det/", "kd/")
    )
    return f" (det {sum(own):.4g}, kd {sum(taught):.4g})" if own and taught else ""


class Bars:
    """Bars of all runs that go on at once, on screen as long as there is one (a terminal shows one set of bars only).

    Args:
        console: Where to draw; stderr by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or stderr_console()
        self._progress: Any = None

    def add(self, title: str, total: int, completed: int) -> Any:
        """A bar more; returns its handle."""
        if self._progress is None:
            self._progress = _progress(self.console)
            self._progress.start()
        return self._progress.add_task(title, total=total, completed=completed, numbers="")

    def update(self, task: Any, completed: int, numbers: str) -> None:
        """Move one bar."""
        self._progress.update(task, completed=completed, numbers=numbers)

    def remove(self, task: Any) -> None:
        """Take one bar away; with the last one the screen is given back."""
        self._progress.remove_task(task)
        if not self._progress.task_ids:
            self._progress.stop()
            self._progress = None


def _progress(console: Console) -> Any:
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
