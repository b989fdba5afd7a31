"""Names that try to be markup, formulas or commands, through everything that is generated."""

from __future__ import annotations

import csv
import importlib.util
import io
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdflow.cli.console import columns
from kdflow.escape import csv_cell, markdown, mermaid, one_line, printable
from kdflow.experiment.matrix import Cell, as_markdown
from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import prepare
from kdflow.graph.draw import as_mermaid, as_svg, as_text
from kdflow.results.query import query
from kdflow.results.record import Record
from kdflow.results.report.gather import Entry, Facts
from kdflow.results.report.page import page
from kdflow.results.table import COLUMNS, render
from kdflow.using.look.page import page as look_page
from tests.paths import BENCH

NAMES = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', '=HYPERLINK("http://x")', "+1+1", "-2+3", "@SUM(A1)",
    "\t=1", "a | b", "[x](javascript:alert(1))", "`code` ``` fence", "line\nbreak\r\nagain", "\x1b[31mred\x1b[0m\x00",
    "&lt;&#60;", "\u202eevil", "end", "*bold* _it_ \\", "</text></svg>", '"]; click n0 "javascript:x"',
]


class Tags(HTMLParser):
    """Collects what a browser would take for elements."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.attributes += attrs


def record(name: str, seed: int = 0, method: str = "") -> Record:
    nodes = () if method == "baseline" else ("cnn/neck",)
    return Record(
        origin="measured", method=method or name, bench="tiny", metrics={"AP": 1.0 + len(nodes), "AP50": 2.0},
        variant="" if method else name, bench_variant=name, nodes=nodes, source=name, note=name, student=name, teacher=name,
        dataset=name, run_id="abc", seed=seed, bench_hash="b", definition=method or name, family=name, detector=name,
    )


def records(name: str) -> list[Record]:
    return [record(name), record(name, method="baseline")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("by", ["taxonomy", "method", "family"])
def test_tables_hold_any_name(name: str, by: str) -> None:
    answer = query(records(name), by)
    rows = list(csv.reader(io.StringIO(render(answer, "csv"))))
    assert len({len(row) for row in rows}) == 1
    for cell in (cell for row in rows for cell in row):
        assert not cell.lstrip(" ").startswith(("=", "+", "@", "\t", "\r")), cell
        assert not cell.startswith("-") or float(cell) < 0
    text = render(answer, "markdown")
    for line in text.splitlines():
        if line.startswith("| "):
            assert line.replace("\\\\", "").replace("\\|", "").count("|") == len(COLUMNS) + 1
    tags = Tags()
    tags.feed(text)
    assert not tags.found
    assert "](javascript" not in text.replace("\\]", "")
    plain = render(answer, "table")
    assert "\x1b" not in plain
    assert "\x00" not in plain
    assert len(plain.splitlines()) == len(render(query(records("harmless"), by)).splitlines())


@pytest.mark.parametrize("name", NAMES)
def test_the_report_holds_any_name(name: str) -> None:
    found = records(name)
    answer = query(found, "bench")
    entries = tuple(
        Entry(line, (line.record,), {"det": ((1, 0.5), (2, 0.5)), "cnn/neck": ((1, 0.5), (2, 0.5))}, ((1, 1.0),), 5.0, name)
        for _, line in answer.lines
    )

    def tags(words: str) -> Tags:
        made = Tags()
        made.feed(words)
        return made

    text = page(Facts("AP", "baseline", name, "now", query(found), entries))
    made = tags(text)
    assert "script" not in made.found
    assert "img" not in made.found
    assert not [key for key, _ in made.attributes if key.startswith("on")]
    assert "\x00" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_a_run_holds_any_name(name: str) -> None:
    found = SimpleNamespace(metrics={"AP": 1.0}, classes={name: {"objects": 2.0, "AP": 0.0}})
    side = SimpleNamespace(name=name, evaluation=found, pairs=Counter({(1, 1): 2, (1, -1): 1}), curve=())
    facts: Any = SimpleNamespace(
        sides=(side,), classes={1: name}, images={}, notes=(name,), stories=(), threshold=0.5, saved=SimpleNamespace(
            method=SimpleNamespace(method=name), bench=SimpleNamespace(bench=name), seed=0, folder=Path(name.replace("\x00", "")),
        ),
    )
    text = look_page(facts)
    made = Tags()
    made.feed(text)
    assert not {"script", "img"} & set(made.found)
    assert not [key for key, _ in made.attributes if key.startswith("on")]
    assert "\x00" not in text
    assert "\x1b" not in text


_PLANS: dict[str, Any] = {}


@pytest.mark.parametrize("name", NAMES)
def test_drawings_hold_any_label(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _PLANS.setdefault("fitnet", prepare(read_method("fitnet"), BENCH).plan)
    monkeypatch.setattr("kdflow.graph.draw.what", lambda node: name)
    picture = as_svg(plan)
    elements = {element.tag.rpartition("}")[2] for element in ET.fromstring(picture).iter()}
    assert elements == {"svg", "rect", "path", "g", "text"}
    chart = as_mermaid(plan)
    monkeypatch.setattr("kdflow.graph.draw.what", lambda node: "harmless")
    assert len(chart.splitlines()) == len(as_mermaid(plan).splitlines())
    labels = [line.split('["', 1)[1].rsplit('"]', 1)[0] for line in chart.splitlines() if '["' in line]
    assert labels
    for label in labels:
        assert not set(label.replace("<br/>", "")) & set('"<>`[]')
    assert "\x1b" not in as_text(plan)


@pytest.mark.parametrize("name", NAMES)
def test_listings_and_matrices_hold_any_name(name: str) -> None:
    assert len(columns([(name, "b"), ("c", name)], head=("one", "two")).splitlines()) == 3
    text = as_markdown([Cell(name, name, False, name), Cell("m", name, True)])
    assert len(text.splitlines()) == 6
    tags = Tags()
    tags.feed(text)
    assert not tags.found


@pytest.mark.parametrize("name", NAMES)
def test_pages_of_the_documentation_hold_any_name(name: str) -> None:
    found = importlib.util.spec_from_file_location("docs_generate_names", Path(__file__).parents[2] / "docs" / "generate.py")
    assert found is not None
    assert found.loader is not None
    generate = importlib.util.module_from_spec(found)
    found.loader.exec_module(generate)
    (row,) = generate.table(("a", "b"), [(generate.code(name), generate.markdown(name))]).splitlines()[2:]
    assert row.replace("\\\\", "").replace("\\|", "").count("|") == 3
    text = "\n".join(generate.fenced(name, "yaml"))
    fence = text.splitlines()[0].removesuffix("yaml")
    assert fence not in name
    assert text.endswith(fence)


def test_helpers_leave_harmless_words_as_they_are() -> None:
    for words in ("cwd_x-1.0 (a, b)", "Rückgrat 50 %", "C4 -> P3"):
        assert markdown(words) == printable(words) == one_line(words) == csv_cell(words) == words
    assert csv_cell(-1.5) == -1.5
    assert mermaid("student.neck") == "student.neck"
    assert csv_cell("=1") == "'=1"
