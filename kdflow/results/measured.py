"""Measured results: finished runs of a tracking store as records."""

from __future__ import annotations

from collections.abc import Iterable

from kdflow.results.published import load_published
from kdflow.results.record import Record
from kdflow.tracking.run import StoredRun
from kdflow.tracking.store import read_runs


def measured_record(run: StoredRun) -> Record:
    """The record of a stored run; its metrics are those of the final evaluation.

    Knowledge and secondary tags that the run does not state are those of the method's file in ``taxonomy/published``.
    """
    tags = run.tags
    known = load_published().get(tags.get("method", ""))
    owners = [owner for owner in run.named("detector") if owner != "student"]
    teachers = (tags[f"detector.{owner}"] for owner in owners)
    reached = max(map(run.teacher, owners), key=lambda metrics: metrics.get("AP", -1.0), default={})
    seed = tags.get("seed", "")
    number = int(seed) if seed.lstrip("-").isdigit() else None
    split = tags.get("kdflow.split", "")
    return Record(
        origin="measured", method=tags.get("method", ""), bench=tags.get("bench", ""), metrics=run.result,
        classes=run.classes, reached=reached,
        bench_variant=tags.get("bench_variant", ""),
        dataset=tags.get("dataset", ""), family=tags.get("family.student", ""), detector=tags.get("detector.student", ""),
        student=tags.get("student", ""), teacher=", ".join(teachers), nodes=run.named("node"),
        secondary=run.named("secondary") or (known.secondary if known else ()), rewires=run.named("rewires"),
        knowledge=run.named("knowledge") or (known.knowledge if known else ()),
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
