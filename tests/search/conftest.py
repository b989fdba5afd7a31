"""Searches whose trials train nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdflow.errors import InvariantError
from kdflow.events import EvaluationEvent, RunStarted, StopRun
from kdflow.experiment.run import RunResult
from kdflow.search.request import Request
from kdflow.search.study import search
from tests.paths import BENCH

PATH = "terms.hint.weight"
Search = Callable[..., Any]


class Runs:
    """Stands in for training: AP grows with the weight and the steps; a weight above ``bad`` fails."""

    def __init__(self, bad: float = 1e9, plain_ap: float = 0.0) -> None:
        self.bad = bad
        self.plain_ap = plain_ap
        self.plain: list[int] = []
        self.steps = 0
        self.values: list[float] = []
        self.sessions: set[int] = set()

    def __call__(
        self, spec: Any, *, overrides: Any, hooks: Any, session: Any, trial: Any, output: Any, seed: int, **_: Any
    ) -> RunResult:
        weight = float(overrides[PATH])
        if weight == 0:  # without distillation
            self.plain.append(seed)
            values = {"AP": self.plain_ap + seed % 3, "AP50": 1.0}
            folder = str(trial.folder(output, "tiny"))
            return RunResult("fitnet", "tiny", seed, None, "finished", {}, values, 1.0, 0, (), (), None, folder)
        self.values.append(weight)
        self.sessions.add(id(session))
        if weight > self.bad:
            raise InvariantError("kd/hint", "not finite at step 1")
        folder = trial.folder(output, "tiny")
        total, status, reason, metrics = 10, "finished", "", {}
        for hook in hooks:
            hook.run_started(RunStarted(folder, total, 0, "cpu", 1, ()))
        try:
            for step in range(2, total + 1, 2):
                self.steps += 2
                metrics = {"AP": weight * step / total, "AP50": 2 * weight}
                for hook in hooks:
                    hook.evaluation_ended(EvaluationEvent(step, metrics, "AP", metrics["AP"], True))
        except StopRun as stop:
            status, reason = "stopped", str(stop)
        return RunResult("fitnet", "tiny", 0, None, status, {}, metrics, 7.0 / weight, 0, (), (), None, str(folder), reason)


@pytest.fixture
def fake(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Search:
    """A search whose trials are ``Runs``; teachers and the test split are left out."""
    monkeypatch.setattr("kdflow.search.study.provide_teachers", lambda *_, **__: {})
    monkeypatch.setattr("kdflow.search.outcome.measure_trial", lambda *_: {"AP": 50.0})

    def go(runs: Runs, notify: Callable[[str], None] = lambda _: None, spec: Any = "fitnet", **options: Any) -> Any:
        monkeypatch.setattr("kdflow.search.objective.run", runs)
        settings: dict[str, Any] = {"bench": BENCH, "output": tmp_path / "runs", "device": "cpu", "study": "s"}
        return search(spec, Request(**{**settings, **options}), notify)

    return go
