from __future__ import annotations

from pathlib import Path

import pytest

from kdflow.experiment.run import RunResult, run
from tests.using.paths import LEARNED


@pytest.fixture(scope="session")
def trained(home: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A distilled student of a few seconds, which finds something."""
    output = tmp_path_factory.mktemp("runs")
    return run("fitnet", bench=LEARNED, output=output, device="cpu", notify=lambda _: None)
