from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for teachers and drawn data that all tests of a process share."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDFLOW_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


@pytest.fixture
def any_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a teacher of two training steps pass."""
    monkeypatch.setattr("kdflow.experiment.teacher.require_teacher", lambda *_: None)
