"""Measured results: finished runs of a tracking store as records."""

from __future__ import annotations

from collections.abc import Iterable

from kdflow.results.record import Record
from kdflow.tracking.run import StoredRun
from kdflow.tracking.store import read_runs


def measured_record(run: StoredRun) -> Record:
    """The record of a stored run; its metrics are those of the final evaluation."""
    tags = run.tags
    seed = tags.get("seed", "")
    number = int(seed) if seed.lstrip("-").isdigit() else None
    split = tags.get("kdflow.split", "")
    return Record(
        origin="measured", method=tags.get("method", ""), bench=tags.get("bench", ""), metrics=run.result,
        dataset=tags.get("dataset", ""), family=tags.get("family", ""), detector=tags.get("detector", ""),
        student=tags.get("student", ""), teacher=tags.get("teacher", ""), nodes=run.named("node"),
        secondary=run.named("secondary"), rewires=run.named("rewires"), knowledge=run.named("knowledge"),
        pair=tags.get("pair", ""), variant=tags.get("variant", ""), seed=number,
        fidelity=tags.get("fidelity", ""), source=f"run {run.run_id[:8]}" + (f", {split}" if split else ""),
        run_id=run.run_id, run_hash=tags.get("kdflow.run_hash", ""), definition=tags.get("kdflow.definition", ""),
        bench_hash=tags.get("kdflow.bench_hash", ""), status=run.status, started=run.started,
    )


def read_records(
    uri: str | None = None, benches: Iterable[str] = (), unfinished: bool = False, trials: bool = False
) -> list[Record]:
    """Measured records, oldest first; the arguments are those of :func:`kdflow.tracking.store.read_runs`.

    Raises:
        KdflowError: The store cannot be opened.
    """
    return [measured_record(run) for run in read_runs(uri, benches, unfinished, trials)]
