"""A store of runs that were never trained, written by the tracker itself: for what reads stores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdflow.events import EvaluationEvent, RunEnded, RunStarted, StepEvent
from kdflow.tracking.mlflow import MlflowTracker
from kdflow.tracking.run import RunFacts

NODES = {"baseline": {}, "fitnet": {"hint": "cnn/neck"}, "defeat": {"neck": "cnn/neck", "roi": "cnn/rpn-roi"}}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="60"><script>alert(1)</script><text y="20">graph</text></svg>'


def write_run(
    folder: Path,
    method: str,
    ap: float,
    *,
    seed: int = 0,
    bench: str = "shapes-faster-rcnn",
    terms: dict[str, str] | None = None,
    step_time: float = 0.2,
    steps: Sequence[int] = (20, 40, 60, 80),
    artifacts: Sequence[Path] = (),
    uri: str | None = None,
    details: Mapping[str, float] | None = None,
) -> str:
    """One finished run; its losses are made up but smooth. Returns its id."""
    places = NODES[method] if terms is None else terms
    named = {"det/loss_cls": (), **{f"kd/{name}": (node,) for name, node in places.items()}}
    tracker = MlflowTracker(
        RunFacts(
            method=method, bench=bench, seed=seed, run_hash=f"{bench}-{method}-{seed}", definition=f"{bench}-{method}",
            bench_hash=bench, dataset="shapes", fidelity="code", terms=named, knowledge=("feature",) if places else (),
            families={"student": "two-stage", "teacher": "two-stage"}, artifacts=tuple(artifacts),
            detectors={"student": "faster-rcnn", "teacher": "faster-rcnn"},
        ),
        folder=folder, uri=uri,
    )
    tracker.run_started(RunStarted(folder / "x", steps[-1], 0, "cpu", 1, tuple(named)))
    for step in steps:
        values = {name: (1 + i) * math.exp(-step / (40 + 30 * i)) for i, name in enumerate(named)}
        total, speed = sum(values.values()), 8 / step_time
        peak = {"peak_memory": 1000.0 + step} if method == "defeat" else {}
        tracker.step_ended(StepEvent(step, steps[-1], "", total, values, values, 0.01, step_time, speed, **peak))
    tracker.evaluation_ended(EvaluationEvent(steps[-1], {"AP": ap}, "AP", ap, True))
    tracker.run_ended(RunEnded("finished", steps[-1]))
    tracker.finish({"AP": ap, "AP50": ap + 20.25, "voc_ap50": ap + 22.5, **(details or {})})
    return str(tracker.run_id)
