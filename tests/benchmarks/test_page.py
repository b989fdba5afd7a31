"""The page of measured speed."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import page
from benchmarks.page import ALL, DOCS, KEPT


def test_the_page_is_what_its_kept_results_make() -> None:
    assert (DOCS / "benchmarks.md").read_text() == page.page()


@pytest.mark.parametrize("name", ALL)
def test_every_section_names_a_command_that_exists(name: str) -> None:
    module: Any = importlib.import_module(ALL[name].command[1])
    assert callable(module.main)
    if hasattr(module, "parser"):
        module.parser().parse_args([*ALL[name].command[2:], "--json"])


def test_what_was_not_measured_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "KEPT", tmp_path)
    text = page.page()
    assert text.count("not measured.\n") == len(ALL)


def test_results_that_are_kept_have_the_keys_that_are_quoted() -> None:
    for name in ("step-pkd", "step-fgd", "step-r50-r18"):
        ratios = json.loads((KEPT / f"{name}.json").read_text())["ratios"]
        assert {"kdflow_vs_hand_cut", "kdflow_vs_hand_full", "kdflow_vs_student_only"} <= set(ratios)
