"""How long `kdflow results` takes, and how much memory it needs, with thousands of runs in the store.

    python -m benchmarks.results_load --runs 10000

The store is filled by SQL with what a real run leaves (tags, parameters, last values of its metrics), then the command runs in a
process of its own (Linux). The exit code is 1 when it takes more than 10 s of CPU or 400 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from kdflow.tracking.mlflow import MlflowTracker, RunFacts
from kdflow.tracking.store import open_client
from kdflow.urls import sqlite_url

SECONDS, MEGABYTES = 10.0, 400.0
METHODS = ("baseline", "fitnet", "pkd", "cwd", "mgd", "fgd", "defeat", "ld", "gid", "frs")
PARAMETERS, CURVES = 120, 30
"""Leaves of a filled spec and bench, and metrics that are logged at every step."""


def fill(folder: Path, runs: int) -> str:
    """A store with so many finished runs; gives its address.

    One run is written by the tracker, so that tables and tags have their real form; the others are copies of its rows.
    """
    uri = sqlite_url(folder / "mlflow.db")
    first = _write(folder)
    client = open_client(uri)
    tags = dict(client.get_run(first).data.tags)
    experiment = client.get_run(first).info.experiment_id
    engine = sa.create_engine(uri)
    with engine.begin() as connection:
        rows = [_rows(number, experiment, tags) for number in range(1, runs)]
        for table in ("runs", "tags", "params", "latest_metrics"):
            values = [row for found in rows for row in found[table]]
            names = list(values[0])
            text = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(':' + name for name in names)})"
            for start in range(0, len(values), 50_000):
                connection.execute(sa.text(text), values[start:start + 50_000])
    engine.dispose()
    return uri


def _write(folder: Path) -> str:
    facts = RunFacts(
        method="baseline", bench="load", run_hash="run-0", definition="baseline", bench_hash="load", dataset="shapes",
        fidelity="code",
        families={"student": "two-stage", "teacher": "two-stage"}, detectors={"student": "faster-rcnn", "teacher": "faster-rcnn"},
        terms={"kd/neck": ("cnn/neck",)}, knowledge=("feature",), title="A title", student="resnet18",
    )
    tracker = MlflowTracker(facts, folder)
    tracker.finish({"AP": 20.0, "AP50": 40.0, "voc_ap50": 41.0})
    return str(tracker.run_id)


def _rows(number: int, experiment: str, tags: dict[str, str]) -> dict[str, list[dict[str, object]]]:
    """What a run leaves in the tables."""
    run, method, seed = f"{number:032x}", METHODS[number % len(METHODS)], number // len(METHODS)
    own = {**tags, "method": method, "seed": str(seed), "kdflow.run_hash": f"run-{number}", "kdflow.definition": method}
    metrics = {"AP": 20.0 + number % 7, "AP50": 40.0, "AP75": 18.0, "AP_S": 5.0, "AP_M": 20.0, "AP_L": 30.0, "voc_ap50": 41.0}
    metrics |= {f"loss/{n}": 0.5 for n in range(CURVES)} | {f"val/{name}": value for name, value in metrics.items()}
    return {
        "runs": [{
            "run_uuid": run, "name": "run", "source_type": "UNKNOWN", "source_name": "", "entry_point_name": "", "user_id": "u",
            "status": "FINISHED", "start_time": 1_700_000_000_000 + number, "end_time": 1_700_000_001_000 + number,
            "source_version": "", "lifecycle_stage": "active", "artifact_uri": "x", "experiment_id": experiment,
        }],
        "tags": [{"key": key, "value": value, "run_uuid": run} for key, value in own.items()],
        "params": [{"key": f"method.nodes.n{n}.option", "value": f"value {n}", "run_uuid": run} for n in range(PARAMETERS)],
        "latest_metrics": [
            {"key": key, "value": value, "timestamp": 1, "step": 80, "is_nan": False, "run_uuid": run}
            for key, value in metrics.items()
        ],
    }  # fmt: skip


def measure(uri: str, words: Sequence[str] = ()) -> tuple[float, float, int]:
    """CPU seconds, megabytes and records of ``kdflow results`` in a process of its own."""
    code = (
        "import json, re, sys, time\nfrom kdflow.cli.main import main\ncode = main(sys.argv[1:])\n"
        "peak = int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])  # getrusage knows the parent's, too\n"
        "print(json.dumps([time.process_time(), peak / 1024]), file=sys.stderr)\nsys.exit(code)\n"
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    command = [sys.executable, "-c", code, "results", "--json", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds, megabytes = json.loads(done.stderr.strip().splitlines()[-1])
    return seconds, megabytes, json.loads(done.stdout)["records"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.results_load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        uri = fill(Path(folder), options.runs)
        seconds, megabytes, records = measure(uri)
    good = seconds <= SECONDS and megabytes <= MEGABYTES and records == options.runs
    print(f"{records} runs: {seconds:.1f} s CPU (mark {SECONDS:.0f}), {megabytes:.0f} MB (mark {MEGABYTES:.0f})")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
