from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import compile as compiling
from benchmarks import end_to_end

TINY = str(Path(__file__).parents[1] / "benches" / "tiny.yaml")


def test_compiling_is_timed_and_refusals_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    compiling.main(["--method", "fitnet", "ld", "--bench", TINY, "--repeat", "1", "--json"])
    fine, refused = json.loads(capsys.readouterr().out)["results"]
    assert set(fine["ms"]) == {"parse", "prepare", "compile", "explain"}
    assert fine["nodes"] > 10
    assert refused["method"] == "ld"
    assert refused["refused"]
    assert "refused: ld on tiny" in compiling.as_text([fine, refused])


def test_a_run_is_taken_apart_into_parts_that_add_up(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDFLOW_HOME", str(tmp_path))
    line = tmp_path / "step.json"
    words = ["--pair", TINY, "--method", "fitnet", "--steps", "2", "--warmup", "1", "--trace", str(line), "--json"]
    end_to_end.main(words)
    result = json.loads(capsys.readouterr().out)
    assert set(result["share"]) == set(end_to_end.PARTS)
    assert sum(result["share"].values()) == pytest.approx(1, abs=1e-3)
    assert all(result["ms"][part] > 0 for part in ("data", "teacher", "student forward", "terms", "backward", "step"))
    assert result["images_per_second"]["median"] > 0
    assert "teacher.neck" in result["teacher_stages_run"]
    assert "images/s" in end_to_end.as_text(result)
    named = {event.get("name") for event in json.loads(line.read_text())["traceEvents"]}
    assert {"teacher:neck", "student:backbone"} <= named


def test_an_inner_part_is_not_counted_twice() -> None:
    shares = end_to_end.Shares(lambda: None)
    with shares.of("other forward"), shares.of("terms"):
        pass
    assert shares.seconds["data"] == 0
    assert shares.seconds["terms"] > 0
    assert shares.seconds["other forward"] > 0
