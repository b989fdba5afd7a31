"""Fast mode goes on where it was, has a hash of its own, and runs beside others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdflow.engine.checkpoint import LAST, read
from kdflow.experiment.request import RunRequest
from kdflow.experiment.run import RunResult
from kdflow.experiment.together import run_together
from tests.engine.fakes import differences
from tests.paths import BENCH

Tiny = Callable[..., RunResult]


def weights(result: RunResult) -> dict[str, object]:
    return dict(read(Path(result.folder) / LAST)["plan"])


def test_a_fast_run_is_another_run_and_together_equals_alone(tiny: Tiny, any_teacher: None, tmp_path: Path) -> None:
    plain, fast = tiny("fitnet", steps=2), tiny("fitnet", steps=2, fast=True)
    assert plain.folder != fast.folder
    assert differences(weights(plain), weights(fast)), "rounding is another"
    requests = [RunRequest(method, BENCH, steps=2, fast=True) for method in ("fitnet", "pkd")]
    results = run_together(requests, output=tmp_path / "together", device="cpu", notify=lambda _: None)
    assert [r.status for r in results] == ["finished", "finished"]
    assert not differences(weights(fast), weights(results[0]))
