"""The page on one's own detector: from its files to an AP, through the installed command."""

from __future__ import annotations

from pathlib import Path

import pytest

import kdflow
from tests.docs.test_examples import ROOT, blocks

PAGE = ROOT / "docs" / "own-detector.md"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    files = {block.file: block.text for block in blocks(PAGE, "python", "yaml") if block.file}
    for name, text in files.items():
        Path(name).write_text(text)
    return files


def test_the_example_is_as_short_as_the_page_says() -> None:
    lines = {
        block.file: [line for line in block.text.splitlines() if line.strip() and not line.startswith("#")]
        for block in blocks(PAGE, "python", "yaml")
    }
    detector, bench, method = (len(lines[name]) for name in ("own_detector.py", "own.yaml", "hint.yaml"))
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"{detector} lines of Python that are the detector, and {bench + method} of YAML" in text
    assert bench + method < 30, "what one writes beside the detector"
    student = lines["own.yaml"].index(next(line for line in lines["own.yaml"] if line.startswith("student:")))
    assert lines["own.yaml"][student + 2].startswith("teacher:"), "two lines"


def test_it_is_distilled_from_a_library_detector(written: dict[str, str], any_teacher: None, home: Path) -> None:
    small = {"data.images": {"train": 8, "val": 4, "test": 4}, "teacher.recipe.steps": 2}
    result = kdflow.run("hint.yaml", steps=2, overrides=small, output=Path("runs"), device="cpu", notify=lambda _: None)
    assert result.status == "finished"
    assert 0 <= result.metrics["AP"] <= 100
    assert result.teacher_stages_run == ("teacher.normalize", "teacher.backbone", "teacher.neck")
    assert any("which is code of your own" in note for note in result.notes)
    assert Path(str(result.student_path)).is_file()
