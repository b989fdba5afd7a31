"""Workers of one comparison on a PostgreSQL server, and the processes of torchrun, end with the file of a single worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdflow.compare.verify import faults_of, read_file
from tests.search.postgres import server

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def start(words: list[str], home: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "KDFLOW_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [sys.executable, "-m", *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def result(output: Path) -> dict[str, Any]:
    place = output / "comparisons" / "tiny.json"
    assert faults_of(read_file(place)) == []
    return dict(json.loads(place.read_text())["comparison"])


def test_two_workers_on_postgresql_end_with_the_file_of_one(tmp_path: Path) -> None:
    alone = start(["tests.compare.drive", str(tmp_path / "alone")], tmp_path / "home")
    said = alone.communicate(timeout=600)
    assert alone.returncode == 0, said
    with server() as url:
        words = ["tests.compare.drive", str(tmp_path / "shared"), "-1", url]
        workers = [start(words, tmp_path / "home") for _ in range(2)]
        said = [worker.communicate(timeout=600) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(error for _, error in said)
    assert result(tmp_path / "shared") == result(tmp_path / "alone")


def test_processes_of_torchrun_go_through_all_runs_together(tmp_path: Path) -> None:
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.compare.drive", str(tmp_path / "runs")]
    ranks = start(command, tmp_path / "home")
    said = ranks.communicate(timeout=600)
    assert ranks.returncode == 0, said
    comparison = result(tmp_path / "runs")
    assert all(row["same"] for row in comparison["audit"])
    assert [len(entry["runs"]) for entry in comparison["entries"]] == [2, 2]
