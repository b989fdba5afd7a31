"""The script for a GPU runs from end to end on a CPU; on a GPU its correctness part is a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import Report, correctness, covered
from kdflow.engine.machine import open_machine


def test_the_script_runs_from_end_to_end_without_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.peer.missing", lambda: "not in this test")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(gpu, "methods", lambda tiny: ["fitnet"])
    file = tmp_path / "gpu.json"
    try:
        gpu.main(["--device", "cpu", "--tiny", "--rounds", "1", "--output", str(file)])
    except SystemExit:
        pytest.fail(capsys.readouterr().out)
    found = json.loads(file.read_text())
    assert set(found["checks"].values()) == {"ok"}
    runs = {"run", "run --fast --together", "run --fast --resume", "search"}
    assert {"fitnet, fp32 and bf16", "fast as exact: fitnet", "evaluation", *runs} <= found["checks"].keys()
    (speed,) = found["speeds"]
    assert {"student_only", "hand_cut", "kdflow", "kdflow_fast", "kdflow_fast_fed"} <= speed["variants"].keys()
    assert {"fast over plain student", "teacher's share of the fast step", "exact over hand-cut"} <= speed["marks"].keys()
    text = capsys.readouterr().out
    assert "kdflow_fast" in text
    assert "20 images x 10 detections x 4 classes" in text


def test_what_is_wrong_is_said_and_the_rest_goes_on() -> None:
    report = Report("cpu", True, 100.0)
    report.check("bad", lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    report.check("good", lambda: None)
    assert report.checks == {"bad": "ZeroDivisionError: division by zero", "good": "ok"}
    assert not report.good


def test_nothing_begins_when_time_is_over() -> None:
    report = Report("cpu", True, -1.0)
    report.check("late", lambda: pytest.fail("it began"))
    assert report.left_out == ["late"]
    assert "no time left" in gpu.as_text(report.as_json())


def test_overlapping_kernels_count_once() -> None:
    assert covered([(0, 2), (1, 3), (5, 6)]) == 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_everything_is_right_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    report = Report("cuda", False, 330.0)
    with open_machine("cuda") as machine:
        correctness(report, machine)
    wrong = {name: verdict for name, verdict in report.checks.items() if verdict != "ok"}
    assert not wrong
    assert not report.left_out
