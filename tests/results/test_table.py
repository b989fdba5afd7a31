import csv
import io
import json

import pytest
from rich.console import Console

from kdflow.errors import UsageError
from kdflow.results.query import query
from kdflow.results.record import Record
from kdflow.results.table import COLUMNS, render, rich_table


def records() -> list[Record]:
    def run(method: str, ap: float, seed: int) -> Record:
        nodes = () if method == "baseline" else ("cnn/neck",)
        metrics = {"AP": ap, "AP50": 60.0, "voc_ap50": 61.5}
        return Record(
            origin="measured", method=method, bench="shapes-faster-rcnn", nodes=nodes, metrics=metrics, seed=seed,
            source="run 1234", family="two-stage",
        )

    published = Record(
        origin="published", method="fgd", bench="coco2017 RetinaNet X101 -> R50", nodes=("cnn/neck",), metrics={"AP": 40.7},
        baseline={"AP": 37.4}, gain={"AP": 3.3}, source="official README, a | b", variant="with | bar", verified=False,
    )
    measured = [run(m, a, s) for m, a, s in [("baseline", 30.0, 0), ("baseline", 31.0, 1), ("fgd", 33.0, 0), ("fgd", 34.5, 1)]]
    return [*measured, published]


def test_text_nests_methods_in_benches_in_places():
    text = render(query(records()))
    lines = [line.split("  ") for line in text.splitlines()]
    order = [text.index(word) for word in ("cnn/neck  Neck", "shapes-faster-rcnn", "no distillation", "fgd  ", "coco2017")]
    assert order == sorted(order)
    assert any("33.75 ± 1.06" in line and "+3.25 ± 0.35" in line and "+3.3" in line for line in text.splitlines())
    assert "measured +3.25 (1 line)" in text
    assert "published +3.3 (1 line)" in text
    assert "published*" in text
    assert "* known second hand" in text
    assert lines


def test_the_terminal_table_shows_gain_seeds_and_origin_without_sources():
    out = io.StringIO()
    Console(file=out, width=150, color_system=None).print(rich_table(query(records())))
    text = out.getvalue()
    row = next(line for line in text.splitlines() if line.strip().startswith("fgd") and "measured" in line)
    assert row.split() == ["fgd", "measured", "33.75", "±", "1.06", "60.0", "±", "0.0", "61.5", "±", "0.0", "+3.25", "±", "0.35",
                           "+3.3", "2"]
    assert "official" not in text


def test_csv_can_be_read_back():
    rows = list(csv.DictReader(io.StringIO(render(query(records()), "csv"))))
    assert [(row["origin"], row["method"]) for row in rows] == [
        ("measured", "baseline"), ("measured", "fgd"), ("published", "baseline"), ("published", "fgd"),
    ]
    measured = rows[1]
    assert (measured["AP"], measured["gain_AP"], measured["seeds"], measured["runs"]) == ("33.75", "3.25", "0 1", "2")
    assert measured["voc_ap50"] == "61.5"
    assert rows[3]["source"] == "official README, a | b"
    assert rows[3]["voc_ap50"] == ""


def test_json_holds_everything_and_labels_the_origin():
    data = json.loads(render(query(records()), "json"))
    neck = next(group for group in data["groups"] if group["key"] == "cnn/neck")
    line = neck["lines"][1]
    assert (line["origin"], line["mean"]["AP"], line["gain"]["AP"], line["seeds"]) == ("measured", 33.75, 3.25, [0, 1])
    assert line["published_gain"] == [3.3, 3.3]
    assert neck["summaries"][1] == {"origin": "published", "lines": 1, "low": 3.3, "median": 3.3, "high": 3.3}


def test_markdown_escapes_bars_and_keeps_all_columns():
    text = render(query(records()), "markdown")
    row = next(line for line in text.splitlines() if "with" in line)
    assert "fgd (with \\| bar)" in row
    assert row.replace("\\|", "").count("|") == len(COLUMNS) + 1
    assert "#### cnn/neck" in text


def test_a_gain_in_another_metric_is_named():
    record = Record(
        origin="published", method="odgk", bench="voc", nodes=("cnn/neck",), metrics={"voc_ap50": 82.9},
        baseline={"voc_ap50": 80.53}, gain={"voc_ap50": 2.37},
    )
    assert "+2.37 voc_ap50" in render(query([record]))


def test_an_empty_answer_says_so_in_every_form():
    empty = query([])
    assert "0 records" in render(empty)
    assert "0 records" in render(empty, "markdown")
    assert json.loads(render(empty, "json"))["groups"] == []
    assert render(empty, "csv") == ""
    assert rich_table(empty).row_count == 0


def test_an_unknown_form_is_refused_with_the_choices():
    with pytest.raises(UsageError, match=r'"tabel"\. Did you mean "table"'):
        render(query([]), "tabel")
