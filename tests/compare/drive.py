"""A worker of a tiny comparison in a process of its own: ``drive.py FOLDER [RUNS]``; after so many runs it kills itself."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import kdflow.experiment.teacher as teacher
from kdflow.compare.entries import Protocol
from kdflow.compare.work import Execution, compare
from kdflow.events import Silent, StepEvent
from tests.paths import BENCH

PROTOCOL = Protocol(("fitnet",), str(BENCH), seeds=2, budget=2, controls=())


def request(folder: Path, **more: Any) -> Execution:
    return Execution(name="tiny", output=folder, device="cpu", beat=0.2, grace=2, poll=0.2, **more)


class Killer(Silent):
    """Kills its process in the middle of a run."""

    def __init__(self, runs: int) -> None:
        self.left = runs

    def step_ended(self, event: StepEvent) -> None:
        self.left -= event.step == 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    teacher.require_teacher = lambda *_: None  # a teacher of two steps is no better than chance
    killer = Killer(int(sys.argv[2]) if len(sys.argv) > 2 else -1)
    compare(PROTOCOL, request(Path(sys.argv[1]), join=True), hooks=lambda _: (killer,))
