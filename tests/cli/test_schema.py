"""The editor's schema accepts what kdflow accepts, and refuses what can be seen without a detector."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from kdflow.cli.editor import editor_schema
from kdflow.resources import specs_folder
from kdflow.spec.load import parse, read
from tests.cli.conftest import TINY
from tests.spec.corpus import FOLDER

SHIPPED = sorted(specs_folder().rglob("*.yaml"))
SEEN = (
    "unknown-key",
    "version",
    "no-version",
    "fidelity",
    "paper-key",
    "term-is-a-word",
    "terms-is-a-list",
    "node-without-op",
    "reduction-word",
    "reduction-key",
    "op-typo",
    "loss-typo",
    "option-typo",
    "option-choice",
    "option-range",
    "input-missing",
    "teacher-side-missing",
    "schedule-typo",
    "schedule-negative",
    "variant-key",
    "bench-detector",
    "bench-detector-option",
    "bench-detector-option-type",
    "bench-format",
    "bench-data-key",
    "bench-recipe-key",
    "bench-optimizer",
    "bench-metric",
    "bench-no-student",
)


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(json.dumps(editor_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_shipped_files_are_found():
    assert len(SHIPPED) > 5


@pytest.mark.parametrize("path", [*SHIPPED, TINY], ids=lambda path: path.stem)
def test_good_files_fit(validator, path: Path):
    assert [error.message for error in validator.iter_errors(read(path).data)] == []


@pytest.mark.parametrize("name", SEEN)
def test_broken_files_do_not_fit(validator, name: str):
    assert not validator.is_valid(read(FOLDER / f"{name}.yaml").data)


def test_a_variant_of_another_method_may_name_only_what_changes(validator):
    text = "kdflow: 1\nmethod: mine\nwraps: defeat\nterms: {neck_rest: {weight: 3}, roi_rest: null}\n"
    assert validator.is_valid(parse(text).data)


@pytest.mark.parametrize(
    ("weight", "fits"), [("mu", True), ("-(1 - mu) / 2", True), ("1 mu", False), ("mu ** 2", False), ("[mu]", False)]
)
def test_arithmetic_stands_for_numbers(validator, weight: str, fits: bool):
    text = f"kdflow: 1\nmethod: m\nconstants: {{mu: 0.5}}\nterms:\n  a: {{value: student.losses.a, weight: {weight}}}\n"
    assert validator.is_valid(parse(text).data) == fits


@pytest.mark.parametrize(
    ("features", "fits"), [("{student: a, teacher: b}", True), ("{student: a}", False), ("{student: a, techer: b}", False)]
)
def test_an_input_is_given_for_both_sides(validator, features: str, fits: bool):
    text = f"kdflow: 1\nmethod: m\nnodes:\n  a: {{op: attention.spatial, features: {features}}}\n"
    assert validator.is_valid(parse(text).data) == fits


def test_options_come_with_their_words(validator):
    branches = validator.schema["$defs"]["term"]["else"]["then"]["allOf"]
    (kl,) = [b["then"] for b in branches if b["if"]["properties"]["loss"]["const"] == "loss.kl"]
    assert kl["properties"]["temperature"]["description"].startswith("T, softens")
    assert kl["properties"]["temperature"]["default"] == 1.0
    assert kl["required"] == ["student", "teacher"]


def test_command_writes_a_file(call, tmp_path):
    file = tmp_path / "schema.json"
    assert call("schema", "-o", file).code == 0
    assert json.loads(file.read_text())["title"] == "kdflow"
