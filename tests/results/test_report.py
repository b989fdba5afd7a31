"""The page's content, read with Python's own HTML parser; a browser opens it in test_report_browser."""

from __future__ import annotations

from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kdflow.cli.main import main
from kdflow.html import Html, el
from kdflow.results.measured import read_records
from kdflow.results.query import query
from kdflow.results.report import write_report
from kdflow.results.report.charts import Axis, Mark, Point, axis, gains, scatter
from kdflow.results.report.gather import gather, shares_of
from kdflow.results.table import render
from kdflow.taxonomy import load_tree
from tests.results.store import SVG, write_run

HOSTILE = 'shapes <b onclick="x()">&'
VOID = {"meta", "link", "img", "br", "hr"}


class Reader(HTMLParser):
    """Elements with attributes, text, and whether every element was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    def all(self, attribute: str) -> list[str]:
        return [str(found[attribute]) for _, found in self.elements if attribute in found]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    spec, graph = folder / "run.yaml", folder / "graph.svg"
    spec.write_text("method: {method: defeat}\nnote: <i>not italic</i>\n")
    graph.write_text(SVG)
    for seed, wobble in enumerate((-0.25, 0.25)):
        write_run(folder, "baseline", 30 + wobble, seed=seed)
        write_run(folder, "fitnet", 30.5 + 2 * wobble, seed=seed, step_time=0.3)
        details = {"test/teacher/AP": 34.0, "test/class/<b>cat</b>": 31.5}
        write_run(folder, "defeat", 32 + wobble, seed=seed, step_time=0.4, artifacts=[spec, graph], details=details)
    write_run(folder, "fitnet", 12.0, bench=HOSTILE)
    return folder


@pytest.fixture(scope="module")
def text(store, tmp_path_factory) -> str:
    return write_report(tmp_path_factory.mktemp("page"), f"sqlite:///{store / 'mlflow.db'}").read_text()


@pytest.fixture(scope="module")
def page(text) -> Reader:
    return Reader(text)


def test_page_is_whole_and_loads_nothing(page, text):
    assert page.open == []
    assert text.startswith("<!doctype html>")
    loads = [*page.all("src"), *(a["href"] for tag, a in page.elements if tag == "link")]
    assert loads
    assert all(str(address).startswith("data:") for address in loads)
    assert all(address.startswith("#") for tag, a in page.elements if tag == "a" for address in [str(a["href"])])
    assert not {"script", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert "default-src 'none'" in page.all("content")[1]
    assert "url(" not in text
    assert "@import" not in text


def test_links_lead_somewhere_and_names_are_used_once(page):
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    targets = [str(a["href"])[1:] for tag, a in page.elements if tag == "a"]
    assert len(targets) > 10
    assert set(targets) <= set(ids)


def test_every_taxonomy_node_is_there_with_what_was_measured_and_published(page):
    for node in load_tree():
        assert node.title in page.text
    for node in load_tree().leaves:
        assert f"node-{node.id.replace('/', '-')}" in page.all("id")
    assert "measured: 2 methods in 3 settings, +0.50 to +2.00" in page.text  # cnn/neck: fitnet twice, defeat
    assert "measured: 1 method in 1 setting, +2.00" in page.text  # cnn/rpn-roi
    assert "published here" in page.text


def test_gains_have_their_spread_and_the_published_range(page):
    assert "+0.50 ± 0.35" in page.text
    assert "+2.00 ± 0.00" in page.text
    assert "32.00 ± 0.35" in page.text
    assert "no distillation" in page.text
    assert "is the range of the gains published" in page.text


def test_cost_is_a_multiple_of_the_plain_student(page):
    assert "as a multiple of the plain student's" in page.text
    for number in ("300 1.50", "400 2.00"):
        assert number in page.text


def test_names_of_the_store_are_text_and_never_markup(text, page):
    assert "<b onclick" not in text
    assert HOSTILE in page.text
    assert "<i>not italic</i>" in page.text
    assert "alert(1)" not in text
    (source,) = [address for address in page.all("src") if "svg" in address]
    assert b64decode(source.partition("base64,")[2]).decode() == SVG


def test_pictures_have_a_name_and_a_table_beside_them(page):
    charts = [a for tag, a in page.elements if tag == "svg" and a.get("class", "").startswith("chart")]
    assert len(charts) > 8
    assert all(a["role"] == "img" and a["aria-label"] for a in charts)
    assert [a["alt"] for tag, a in page.elements if tag == "img"] == [
        "Graph of defeat: its places in teacher and student, operations and terms"
    ]
    assert page.text.count("as a table") >= 3
    assert page.all("lang") == ["en"]


def test_memory_is_shown_where_it_was_measured(page):
    assert page.text.count("memory of the GPU: 1080 MiB at most") == 1


def test_loss_shares_add_up_and_need_two_parts(store):
    facts = gather(f"sqlite:///{store / 'mlflow.db'}", where="method = 'defeat'")
    (entry,) = [e for e in facts.entries if e.line.record.method == "defeat"]
    assert set(entry.shares) == {"det", "cnn/neck", "cnn/rpn-roi"}
    for step, *values in zip(*(curve for curve in entry.shares.values()), strict=True):
        assert sum(share for _, share in (step, *values)) == pytest.approx(1)
    assert entry.step_ms == pytest.approx(400)
    assert entry.peak_memory_mib == 1080
    assert entry.validation == ((80, 31.75),)
    assert shares_of({"det": ((1, 2.0),)}) == {}
    assert shares_of({"det": ((1, 3.0), (2, 1.0)), "cnn/neck": ((2, -1.0),)}) == {"det": ((2, 0.5),), "cnn/neck": ((2, 0.5),)}


def test_report_of_nothing_still_shows_the_literature(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["report", "-o", str(tmp_path / "page"), "--runs", str(tmp_path)]) == 0
    file = Path(capsys.readouterr().out.strip())
    page = Reader(file.read_text())
    assert page.open == []
    assert "Nothing to show: no finished run passes." in page.text
    assert "measured: nothing published: " in page.text
    assert main(["report", "-o", str(tmp_path / "page"), "--runs", str(tmp_path), "--metric", "APP"]) == 2
    assert main(["report", "-o", str(tmp_path / "page"), "--runs", str(tmp_path), "--where", "AP >"]) == 2


def test_elements_escape_children_and_attributes():
    made = el("p", "<x>", Html("<b>y</b>"), None, 1.5, class_='a"b', hidden=True, title=None)
    assert made == '<p class="a&quot;b" hidden>&lt;x&gt;<b>y</b>1.5</p>'


def test_scales_hold_their_values_and_have_round_ticks():
    scale = axis([-0.3, 2.2], 0, 100)
    assert 0 < scale(-0.3) < scale(0) < scale(2.2) < 100
    assert scale.ticks == [0, 0.5, 1, 1.5, 2]
    assert axis([0.0], 0, 10).low < 0 < axis([0.0], 0, 10).high
    assert Axis(0, 1, 100, 0)(0.25) == 75


def test_charts_of_one_point_and_of_equal_points_can_be_drawn():
    one = str(gains([Mark("a", 0.0)], "AP", "t"))
    assert "nan" not in one
    same = str(scatter([Point("a", 1.0, 0.0), Point("b", 1.0, 0.0)], "cost", "AP", "t"))
    assert "nan" not in same
    heights = [part.partition('"')[0] for part in same.split(' y="')]
    assert len(set(heights[-4:])) > 2, "labels of equal points lie apart"


def test_what_the_teacher_reaches_and_ap_by_class_are_on_the_page(page, store):
    assert "50 %" in page.text
    assert "34.00" in page.text
    assert "_b_cat_/b_ 31.50" in page.text
    answer = query(read_records(f"sqlite:///{store / 'mlflow.db'}"), "bench")
    table = render(answer, "table", classes=True)
    assert "_b_cat_/b_" in table
    assert "_b_cat_/b_" not in render(answer, "table")
    assert "50 %" in table
