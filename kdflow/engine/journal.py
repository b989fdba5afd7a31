"""What a run has reported so far, in a file that survives a kill: each step once, however often the run was resumed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kdflow.events import EvaluationEvent, StepEvent
from kdflow.files import in_words, write_text

NAME = "journal.jsonl"
_EVENTS: dict[str, TypeAdapter[Any]] = {"step": TypeAdapter(StepEvent), "evaluation": TypeAdapter(EvaluationEvent)}


class Journal:
    """One line per reported step or evaluation, written before the hooks are told.

    Args:
        folder: The run's folder.
        run_hash: Identity of the run; the journal of another run is replaced.
        keep: Continue the file that is there.
        writes: False in all processes but the first, which then only remember.
    """

    def __init__(self, folder: Path, run_hash: str, keep: bool, writes: bool = True) -> None:
        self.path = folder / NAME
        self.writes = writes
        self.steps: dict[int, StepEvent] = {}
        self.evaluations: dict[int, EvaluationEvent] = {}
        if not (keep and self._read(run_hash)):
            self.steps, self.evaluations = {}, {}
        if writes:
            self._rewrite(run_hash)

    def knows(self, event: StepEvent | EvaluationEvent) -> bool:
        """True when this step was reported before."""
        return event.step in (self.steps if isinstance(event, StepEvent) else self.evaluations)

    def add(self, event: StepEvent | EvaluationEvent) -> None:
        """Remember a report; one that is known stays as it was."""
        if self.knows(event):
            return
        self._remember(event)
        if self.writes:
            with in_words(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(_line(event))

    def _remember(self, event: StepEvent | EvaluationEvent) -> None:
        if isinstance(event, StepEvent):
            self.steps[event.step] = event
        else:
            self.evaluations[event.step] = event

    def _read(self, run_hash: str) -> bool:
        if not self.path.is_file():
            return False
        head, *lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] or [""]
        if _plain(head) != {"run": run_hash}:
            return False
        for line in lines:
            if (event := _event(_plain(line))) is None:
                break  # a kill or a full disk cut it off here
            self._remember(event)
        return True

    def _rewrite(self, run_hash: str) -> None:
        events: list[StepEvent | EvaluationEvent] = [*self.steps.values(), *self.evaluations.values()]
        lines = [json.dumps({"run": run_hash}) + "\n", *map(_line, events)]
        write_text(self.path, "".join(lines))


def _plain(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _event(entry: Any) -> StepEvent | EvaluationEvent | None:
    """What a line of the journal reports; None where it is none of its lines."""
    kind = _EVENTS.get(str(entry.pop("event", ""))) if isinstance(entry, dict) else None
    try:
        event: StepEvent | EvaluationEvent | None = kind.validate_python(entry) if kind else None
    except ValidationError:
        return None
    return event


def _line(event: StepEvent | EvaluationEvent) -> str:
    kind = "step" if isinstance(event, StepEvent) else "evaluation"
    return json.dumps({"event": kind, **asdict(event)}) + "\n"
