"""A worker of a tiny comparison in a process of its own: ``drive.py FOLDER [RUNS [URL]]``; after so many runs it kills itself.

Under torchrun its processes go through all runs together, without a queue.
"""

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
    return Execution(name="tiny", output=folder, device="cpu", beat=0.2, grace=4, poll=0.2, **more)


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
    folder, runs, storage = (*sys.argv[1:], *(None, "-1", None)[len(sys.argv) - 1 :])
    killer = Killer(int(runs or -1))
    compare(
        PROTOCOL, request(Path(str(folder)), join="WORLD_SIZE" not in os.environ, storage=storage), hooks=lambda _: (killer,)
    )
