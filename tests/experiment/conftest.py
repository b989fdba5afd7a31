from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdflow.experiment.run import RunResult, run

BENCH = Path(__file__).parents[1] / "benches" / "tiny.yaml"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDFLOW_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


@pytest.fixture
def any_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a teacher of two training steps pass."""
    monkeypatch.setattr("kdflow.experiment.teacher.require_teacher", lambda *_: None)


@pytest.fixture
def tiny(home: Path, tmp_path: Path) -> Callable[..., RunResult]:
    def go(method: str, **options: Any) -> RunResult:
        settings = {"bench": BENCH, "output": tmp_path / "runs", "device": "cpu", "notify": lambda _: None}
        return run(method, **{**settings, **options})

    return go
