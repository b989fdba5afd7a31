"""Files are checked without running anything, and pages are made of those that pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdflow.cli.main import main
from kdflow.compare.content import Comparison, File, content_hash
from kdflow.compare.page import write_page
from kdflow.compare.verify import faults_of, read_file
from kdflow.errors import UsageError
from tests.results.test_report import Reader

HOSTILE = '</title><script>alert("x")</script> \u202e'


@pytest.fixture
def plain(once: tuple[File, Path]) -> dict[str, Any]:
    return once[0].model_dump(mode="json")


def sealed(content: dict[str, Any]) -> File:
    """A forger's file: whatever was changed, the hash fits."""
    comparison = Comparison.model_validate(content["comparison"])
    return File.model_validate({**content, "comparison": comparison, "content": content_hash(comparison)})


def changed(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    made = json.loads(json.dumps(content))
    *steps, last = path.split("/")
    place = made
    for step in steps:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[int(last) if isinstance(place, list) else last] = value
    return made


RUN, FITNET = "comparison/entries/1/runs/0", "comparison/entries/1"


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (f"{RUN}/metrics/AP", 99.0, "verdicts: they do not follow"),
        ("comparison/verdicts/0/verdict", "worse", "verdicts: they do not follow"),
        ("comparison/verdicts/0/low", 1.0, "verdicts: they do not follow"),
        (f"{FITNET}/chosen", 0, "is the best on validation"),
        (f"{FITNET}/trials/0/validation/1000", 99.0, "is the best on validation"),
        (f"{FITNET}/trials/1/values/recipe.optimizer.lr", 0.5, "not those of the design"),
        ("comparison/settings/budget", 4, "3 trials, where every entry has 4"),
        (f"{RUN}/seen/student", "other", "audit: it does not follow"),
        ("comparison/audit/0/same", False, "audit: it does not follow"),
        (f"{RUN}/seen/data", "other", "not those that it is made of"),
        (f"{RUN}/hash", "0123456789abcdef", "not that of what the entry says"),
        (f"{FITNET}/made_of/method", {}, "not that of what the entry says"),
        (f"{RUN}/seed", 7, "runs have the seeds"),
        ("comparison/settings/tuning_seeds", [0], "none of them is measured"),
        ("comparison/entries/5/values", {}, "it has the values of fitnet"),
        ("comparison/entries/1/name", "plain student", "two have one name"),
        ("comparison/settings/metric", "APP", "is no metric"),
    ],
)
def test_what_does_not_follow_is_found_though_the_hash_fits(
    plain: dict[str, Any], path: str, value: Any, fault: str
) -> None:
    assert faults_of(sealed(plain)) == []
    assert any(fault in words for words in faults_of(sealed(changed(plain, path, value))))


def test_changed_file_does_not_have_its_hash(plain: dict[str, Any]) -> None:
    file = File.model_validate(changed(plain, "comparison/title", "another"))
    assert faults_of(file) == ["content: the hash is not that of the comparison, so something was changed after it was written"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"), ("[]", "is no file of kdflow compare"), ('{"kind": "comparison"}', "comparison: Field required"),
        ('{"kind": "comparison", "x": NaN}', "NaN is no number"), ("[" * 100_000, "cannot be read"),
    ],
)
def test_other_files_are_refused_in_words(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_file(path)


def test_command_verifies_and_makes_the_page(
    plain: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    good, bad = folder / "good.json", folder / "bad.json"
    good.write_text(json.dumps(plain))
    assert main(["compare", "--verify", str(good)]) == 0
    assert "kdflow compare fitnet --bench" in capsys.readouterr().out
    bad.write_text(json.dumps(changed(plain, f"{RUN}/metrics/AP", 90.0)))
    assert main(["compare", "--verify", str(bad)]) == 1
    assert "verdicts" in capsys.readouterr().err
    assert main(["compare", "--page", str(folder)]) == 1  # one of the two is not shown, and that is said
    assert "bad.json: not shown" in capsys.readouterr().err
    page = Reader((folder / "index.html").read_text())
    assert not page.open
    assert "What would change this verdict" in page.text
    assert "fitnet, random teacher" in page.text
    assert "The teacher itself: 40.00 AP, " in page.text
    assert "+1.90 to +" in page.text or "(+" in page.text
    assert "Published: " in page.text
    assert main(["compare", "--verify", str(good), "--page", str(folder)]) == 2
    assert main(["compare", "fitnet"]) == 2


def test_names_of_others_are_text_on_the_page(plain: dict[str, Any], tmp_path: Path) -> None:
    made = plain
    for path in (
        f"{FITNET}/note", f"{FITNET}/title", f"{FITNET}/method", "comparison/bench", "comparison/title", "comparison/teacher",
        "comparison/student", "comparison/family", "comparison/dataset", "comparison/settings/command",
    ):
        made = changed(made, path, HOSTILE)
    made = changed(changed(made, "comparison/left_out", {HOSTILE: HOSTILE}), "measured_on", {HOSTILE: HOSTILE})
    (tmp_path / "a.json").write_text(sealed(made).model_dump_json())
    place, refused = write_page(tmp_path)
    text = place.read_text()
    assert refused == []
    assert "<script" not in text
    assert "\u202e" not in text
    page = Reader(text)
    assert not page.open
    assert not {tag for tag, _ in page.elements} & {"script", "img", "iframe", "form", "object", "embed", "base"}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_folder_without_comparisons_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UsageError, match="holds no file"):
        write_page(tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        write_page(tmp_path / "absent")
