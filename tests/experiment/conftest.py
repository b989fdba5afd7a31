from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdflow.experiment.run import RunResult, run
from tests.paths import BENCH


@pytest.fixture
def tiny(home: Path, tmp_path: Path) -> Callable[..., RunResult]:
    def go(method: str, **options: Any) -> RunResult:
        settings = {"bench": BENCH, "output": tmp_path / "runs", "device": "cpu", "notify": lambda _: None}
        return run(method, **{**settings, **options})

    return go
