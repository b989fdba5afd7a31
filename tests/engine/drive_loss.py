"""Two processes train; with ``die`` the second one is killed in step 9 (see test_lost.py)."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from kdflow.engine.machine import open_machine
from kdflow.errors import KdflowError
from kdflow.ports import Batch
from tests.engine.drive_many import share
from tests.engine.fakes import FakeOutcome, FakePlan, arguments, fit, make_recipe


class Killed(FakePlan):
    """The second process is killed in step 9, while the first waits for its gradient."""

    def forward(self, batch: Batch) -> FakeOutcome:
        if os.environ["RANK"] == "1" and self.advanced[-1][0] == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch)


if __name__ == "__main__":
    folder, plan = Path(sys.argv[1]), Killed() if sys.argv[2:] == ["die"] else FakePlan()
    with open_machine("cpu") as machine:
        try:
            result = fit(plan, share, make_recipe(), **arguments(folder, device=machine))
        except KdflowError as error:
            raise SystemExit(f"kdflow says: {error}") from None
        if machine.is_first:
            print(f"resumed from {result.resumed_from_step}, {result.status} at {result.step}")  # noqa: T201
