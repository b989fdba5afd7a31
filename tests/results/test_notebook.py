"""What a notebook shows, and answers as plain data."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from kdflow import notebook
from kdflow.cli.progress import ProgressHook
from kdflow.results.query import query
from kdflow.results.record import Record


def record(method: str, ap: float, seed: int, **other: Any) -> Record:
    nodes = () if method == "baseline" else ("cnn/neck",)
    return Record(origin="measured", method=method, bench="mine", metrics={"AP": ap}, seed=seed, nodes=nodes, **other)


RECORDS = [record("baseline", 30.0, 0), record("baseline", 32.0, 1), record("<b>fgd", 33.0, 0), record("<b>fgd", 34.0, 1)]


def test_lines_are_rows_of_plain_data_and_a_data_frame():
    answer = query(RECORDS, by="method")
    rows = answer.rows()
    assert [(row["method"], row["mean"]["AP"], row["seeds"]) for row in rows] == [
        ("baseline", 31.0, [0, 1]),
        ("<b>fgd", 33.5, [0, 1]),
    ]
    assert answer.records == tuple(RECORDS), "one per run"
    frame = answer.to_pandas()
    assert frame["method"].tolist() == ["baseline", "<b>fgd"]
    assert frame["mean.AP"].tolist() == [31.0, 33.5]
    assert frame["gain.AP"].tolist()[1] == 2.5


def test_the_table_of_a_notebook_is_escaped():
    text = query(RECORDS, by="method")._repr_html_()
    assert "&lt;b&gt;fgd" in text
    assert "<b>fgd" not in text
    assert text.count("<tr>") > 3


def test_a_run_has_bars_in_a_notebook_alone(monkeypatch: pytest.MonkeyPatch):
    seen: list[Any] = []

    def run(spec: str, *, hooks: Any = (), seed: int = 0) -> None:
        seen.append(hooks)

    shown = notebook.with_bars(run)
    shown("fgd", hooks=("mine",), seed=2)
    assert seen.pop() == ("mine",)
    monkeypatch.setattr("rich.console.Console", lambda: Console(file=io.StringIO(), force_jupyter=True))
    shown("fgd", hooks=("mine",), seed=2)
    own, bars = seen.pop()
    assert own == "mine"
    assert isinstance(bars, ProgressHook)
    assert bars.title == "fgd, seed 2"
