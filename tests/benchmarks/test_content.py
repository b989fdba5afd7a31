"""Rows of the evidence know the code and the bench that they were measured with."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.evidence.content import content_of, stale, told
from benchmarks.floors import FloorVerdict, page, write
from tests.paths import BENCH


def test_row_is_of_the_code_bench_and_length_that_it_was_measured_with(tmp_path: Path) -> None:
    now = content_of("fitnet", str(BENCH))
    other = tmp_path / "tiny.yaml"
    other.write_text(BENCH.read_text().replace("batch: 2, log", "batch: 4, log"))
    title = tmp_path / "titled.yaml"
    title.write_text(BENCH.read_text().replace("title: Faster", "title: Slower"))
    assert content_of("fitnet", str(other)) not in ("", now)
    assert content_of("fitnet", str(BENCH), steps=7) not in ("", now)
    assert content_of("fitnet", str(title)) == now
    assert [told(word, now) for word in (now, "0123", "", None)] == ["yes", "no, stale", "not known", "not known"]


def test_stale_rows_are_told_on_the_page_and_by_the_command(tmp_path: Path) -> None:
    rows = [FloorVerdict("tiny", {0: 30.0}, 20.0, True, validation={0: 31.0}, steps=2, threads=1, measured="today")]
    write([FloorVerdict("shapes-gfl", {0: 30.0}, 20.0, True, content=content_of("baseline", "shapes-gfl"))], tmp_path)
    assert list(stale(tmp_path)) == []
    write([FloorVerdict("shapes-fcos", {0: 30.0}, 20.0, True, content="0123456789abcdef")], tmp_path)
    assert list(stale(tmp_path)) == ["floors.json: shapes-fcos: of this code: no, stale"]
    assert "| no, stale |" in (tmp_path / "floors.md").read_text()
    assert "| not known |" in page(json.loads(json.dumps([vars(row) for row in rows])))
