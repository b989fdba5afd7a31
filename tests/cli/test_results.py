"""``kdflow results`` as a command; what it counts is tested in tests/results."""

from __future__ import annotations

import csv
import io
import json

import pytest


@pytest.fixture(autouse=True)
def _no_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("KDFLOW_RUNS", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_literature_only_on_request(call):
    assert json.loads(call("results", "--json").out)["records"] == 0
    assert json.loads(call("results", "--published", "--json").out)["records"] > 100


def test_filters_hold_for_published_rows(call):
    found = json.loads(call("results", "--published", "--where", "method = 'defeat'", "--by", "method", "--json").out)
    assert {line["method"] for group in found["groups"] for line in group["lines"]} == {"defeat", "baseline"}


def test_literature_is_found_by_data_set_and_node(call):
    found = json.loads(call("results", "--published", "--where", "dataset = 'coco' and node = 'cnn/neck'", "--json").out)
    (group,) = [group for group in found["groups"] if group["key"] == "cnn/neck"]
    methods = [line for line in group["lines"] if line["method"] != "baseline"]
    assert len(methods) > 80
    assert {line["dataset"] for line in methods} == {"coco2017"}


@pytest.mark.parametrize(("form", "start"), [("table", "Results by method"), ("md", "**Results by method")])
def test_forms_for_people(call, form, start):
    assert call("results", "--published", "--by", "method", "--format", form).out.startswith(start)


def test_csv_has_a_row_per_line(call, tmp_path):
    file = tmp_path / "all.csv"
    assert call("results", "--published", "--format", "csv", "-o", file).code == 0
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert len(rows) > 100
    assert {row["origin"] for row in rows} == {"published"}


@pytest.mark.parametrize(
    "words", [["--by", "colour"], ["--where", "AP >"], ["--metric", "accuracy"], ["--where", "colour = 'red'"]]
)
def test_wrong_questions_are_mistakes(call, words):
    done = call("results", *words)
    assert done.code == 2
    assert done.err
