"""A process that trains in the folder it is given and, if told so, dies by ``kill -9`` in the middle of a step."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from kdflow.ports import Batch
from tests.engine.fakes import FakeOutcome, FakePlan, FakePreparation, arguments, fit, loader, make_recipe
from tests.engine.test_resume import PHASES


class Doomed(FakePlan):
    """Dies after the forward pass of one step."""

    def __init__(self, death: int) -> None:
        super().__init__(preparations=(FakePreparation("prototype", "start"), FakePreparation("each", "epoch")))
        self.death = death

    def forward(self, batch: Batch) -> FakeOutcome:
        outcome = super().forward(batch)
        if self.advanced[-1][0] == self.death:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome


if __name__ == "__main__":
    folder, death = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else -1
    result = fit(Doomed(death), loader, make_recipe(), **arguments(folder, device="cpu", phases=PHASES))
    sys.stdout.write("\n".join(result.notes) + "\n")
