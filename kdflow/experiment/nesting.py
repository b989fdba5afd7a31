"""The run of a sweep in the tracking store, and the runs nested in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kdflow.experiment.hashes import digest
from kdflow.experiment.result import RESULT
from kdflow.experiment.sweep import Job, JobResult
from kdflow.files import read_json
from kdflow.tracking.mlflow import nest, parent_run


def nested(
    jobs: Sequence[Job], results: Iterable[JobResult], output: Path, kind: str = "sweep", name: str = ""
) -> Iterator[JobResult]:
    """Pass results on; each run that finished is nested in the run of its sweep, one per bench, made when it is needed.

    The same jobs are the same sweep, so one that is resumed goes on in its run.

    Args:
        jobs: All of the sweep.
        results: As they come.
        output: Folder of runs.
        kind: ``sweep``, ``ablation`` or ``comparison``.
        name: Name of the run; none is made of the jobs.
    """
    name = name or f"{kind} {digest({'jobs': sorted(job.hash for job in jobs)})[:8]}"
    parents: dict[str, str] = {}
    for result in results:
        bench, run_id = result.job.bench_name, _run_id(result)
        if bench and run_id:
            if bench not in parents:
                parents[bench] = parent_run(bench, name, kind, output)
            nest(parents[bench], run_id, output)
        yield result


def _run_id(result: JobResult) -> str:
    content = read_json(Path(result.folder) / RESULT) if result.folder else None
    return str(content.get("run_id") or "") if isinstance(content, dict) else ""
