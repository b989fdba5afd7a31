"""A real MLflow server in a process of its own: runs are written to it and read from it over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdflow.cli.main import main
from kdflow.results.report.gather import gather
from kdflow.tracking.store import open_client, read_runs, read_texts
from tests.paths import BENCH

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of ``mlflow server`` on SQLite, artifacts through the server."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder / "artifacts"),
    ]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address, process, folder / "log")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"the server does not answer: {log.read_text()[-3000:]}")


def test_runs_are_written_to_a_server_and_read_from_it(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server, "KDFLOW_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.experiment.drive", "run", "baseline", "fitnet", "--bench", str(BENCH)]
    words += ["--device", "cpu", "--output", str(tmp_path / "runs")]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "runs" / "mlflow.db").exists(), "nothing is written beside the server"

    runs = read_runs(server)
    assert [run.tags["method"] for run in runs] == ["baseline", "fitnet"]
    assert runs[1].tags["node.cnn/neck"] == "true"
    assert {"AP", "AP50", "voc_ap50"} <= set(runs[1].result)
    client = open_client(server)
    assert [m.step for m in client.get_metric_history(runs[1].run_id, "loss/cnn/neck")] == [1, 2]
    texts = read_texts(client, runs[1].run_id, ["run.yaml", "graph.svg", "nothing.txt"])
    assert set(texts) == {"run.yaml", "graph.svg"}
    assert "method: fitnet" in texts["run.yaml"]
    assert {entry.path for entry in client.list_artifacts(runs[1].run_id)} >= {"student.pt", "result.json"}, "weights travel, too"

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert main(["results", "--where", "node = 'cnn/neck'", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (group,) = [group for group in answer["groups"] if group["key"] == "cnn/neck"]
    assert {line["method"] for line in group["lines"]} == {"baseline", "fitnet"}
    (fitnet,) = [line for line in group["lines"] if line["method"] == "fitnet"]
    assert fitnet["mean"]["AP"] == runs[1].result["AP"]
    assert "AP" in fitnet["gain"]

    entry = next(e for e in gather(server).entries if e.line.record.method == "fitnet")
    assert set(entry.shares) == {"det", "cnn/neck"}
    assert entry.graph.startswith("<svg")


def test_a_server_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(["results"]) == 2
    assert "http://127.0.0.1:9 cannot be opened" in capsys.readouterr().err
