"""The pages that are made from the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from kdflow.cli.methods import shipped
from kdflow.operation import OPS

FILE = Path(__file__).parents[2] / "docs" / "generate.py"


@pytest.fixture(scope="module")
def generate():
    found = importlib.util.spec_from_file_location("docs_generate", FILE)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_every_op_is_described(generate):
    pages = "\n".join(generate.op_page(group) for group in {name.partition(".")[0] for name in OPS})
    assert all(f"## {name}\n" in pages for name in OPS)


def test_every_input_and_option_has_words():
    from kdflow.cli.describe import describe_op

    silent = [
        f"{name}.{part.name}"
        for name in OPS
        if OPS.get(name).target.__module__.startswith("kdflow.")  # ops that other tests register are theirs
        for op in [describe_op(OPS.get(name))]
        for part in (*op.inputs, *op.options)
        if not part.doc
    ]
    assert not silent


def test_method_page_has_picture_terms_spec_and_literature(generate, tmp_path):
    (facts,) = [m for m in shipped() if m["method"] == "defeat"]
    assert generate.method_page(facts, tmp_path) == 0
    page = (tmp_path / "defeat.md").read_text()
    assert (tmp_path / "defeat.svg").read_text().startswith("<svg")
    for words in (
        "| `kd/neck_objects` | `cnn/neck` | 3 |",
        "op: mask.boxes",
        "## Published",
        "coco2017",
        "## Searchable",
    ):
        assert words in page


def test_pages_of_one_kind_are_tables(generate):
    for name, page in generate.PAGES.items():
        assert "|" in page() or name == "taxonomy.md"
