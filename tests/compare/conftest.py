from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kdflow.compare.content import CostRow, File
from kdflow.compare.entries import Entrant, Protocol
from kdflow.compare.work import Execution, compare
from kdflow.experiment.reading import read_bench
from kdflow.experiment.session import Session
from kdflow.experiment.sweep import Job, JobResult
from tests.paths import BENCH


def measured(job: Job, data: str) -> JobResult:
    """Stands in for training: FitNet is worth 2 points, give or take; a larger learning rate a little more."""
    rate = float(job.overrides.get("recipe.optimizer.lr", 0.01))
    gain = 2.0 + 0.1 * (job.seed % 3) if "fitnet" in job.spec and "teacher.weights" not in job.overrides else 0.0
    value = 20 + job.seed % 7 + gain + 10 * rate
    teachers = {"teacher": {"identity": str(job.overrides.get("teacher.weights", "t")), "weights": "w"}}
    steps = int(job.overrides.get("recipe.steps") or 2)
    seen = {
        "data": data, "teachers": teachers if "fitnet" in job.spec else {}, "student": f"s{job.seed}", "batches": f"b{job.seed}",
        "steps": steps, "images": 2 * steps,
    }
    metrics = {"AP": value, "AP50": value + 10, "voc_ap50": value + 9}
    theirs = {owner: {"AP": 40.0} for owner in seen["teachers"]}
    return JobResult(
        job, "finished", {} if job.trial else metrics, folder="", validation={"AP": value - 1}, seen=seen, teachers=theirs,
    )


def stand_in(change: Callable[[Job, JobResult], JobResult] = lambda _, result: result) -> Callable[..., Iterable[JobResult]]:
    def runner(jobs: Sequence[Job], session: Session, *_: Any, **__: Any) -> Iterable[JobResult]:
        data = [session.source(read_bench(str(job.bench))[0].data).fingerprint for job in jobs]
        return [change(job, measured(job, one)) for job, one in zip(jobs, data)]

    return runner


def no_cost(entries: Sequence[Entrant], *_: Any) -> dict[str, CostRow]:
    return {entry.name: CostRow(step_ms=10.0, memory_mib=1.0) for entry in entries}


def comparing(output: Path, protocol: Protocol | None = None, runner: Any = None, **more: Any) -> tuple[File, Path]:
    asked = protocol or Protocol(("fitnet",), str(BENCH), budget=2, controls=("random teacher",))
    request = Execution(**{"output": output, "device": "cpu", "poll": 0.1, **more})
    return compare(asked, request, lambda _: None, runner=runner or stand_in(), costs=no_cost)


@pytest.fixture
def compared(home: Path, tmp_path: Path) -> Callable[..., tuple[File, Path]]:
    return partial(comparing, tmp_path / "runs")


@pytest.fixture(scope="session")
def once(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[File, Path]:
    """A comparison with every control, made once."""
    protocol = Protocol(("fitnet",), str(BENCH), budget=3)
    return comparing(tmp_path_factory.mktemp("once"), protocol)
