from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import sweep
from tests.results.store import write_run

BENCH = "shapes-faster-rcnn"


def test_methods_are_swept_and_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    called: list[list[str]] = []

    def kdflow(words: list[str]) -> int:
        called.append(words)
        for method in ("baseline", "fitnet"):
            write_run(tmp_path / "runs", method, 30.0 + len(method) / 8)
        return 0

    monkeypatch.setattr(sweep, "kdflow", kdflow)
    words = ["--methods", "fitnet", "baseline", "kd-detr", "--seeds", "1", "--device", "cpu", "--steps", "5"]
    assert sweep.main([*words, "--output", str(tmp_path / "runs"), "--docs", str(tmp_path / "docs")]) == 0
    (command,) = called
    assert command[:3] == ["sweep", "baseline", "fitnet"]
    assert command[-4:] == ["--steps", "5", "--output", str(tmp_path / "runs")]
    text = (tmp_path / "docs" / f"results-{BENCH}.md").read_text()
    assert "| shapes-faster-rcnn | fitnet | measured |" in text
    assert "- kd-detr: " in text
    assert "$ kdflow sweep baseline fitnet" in text
    assert str(tmp_path) not in text, "a page says nothing of the machine's folders"
    assert "fitnet" in (tmp_path / "docs" / f"report-{BENCH}" / "index.html").read_text()
