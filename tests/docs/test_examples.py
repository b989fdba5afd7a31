"""Examples in the README and the pages run: Python blocks are executed, specs are checked, commands exist.

A block whose first line names a file (``# margin.py``) is written under that name, so that later blocks can use it.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from kdflow.cli.check import verdict_of
from kdflow.experiment.sweep_file import read_sweep
from kdflow.spec.bench import Bench
from kdflow.spec.method import Method, Reduce, TermEntry
from tests.cli.conftest import TINY

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that the first line names."""
        match = re.match(r"# ([\w-]+\.(?:py|yaml))\n", self.text)
        return match[1] if match else None


def blocks(page: Path, *languages: str) -> list[Block]:
    return [Block(*found) for found in _BLOCK.findall(page.read_text(encoding="utf-8")) if found[0] in languages]


def with_code(*languages: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, *languages)]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDFLOW_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_there_are_examples():
    assert len(with_code("python", "yaml")) >= 4


@pytest.mark.parametrize("page", with_code("python", "yaml"), ids=lambda page: page.stem)
def test_examples_run(page: Path, folder: Path, capsys):
    for block in blocks(page, "python", "yaml"):
        if block.file:
            (folder / block.file).write_text(block.text)
    for block in blocks(page, "python", "yaml"):
        if block.language == "yaml":
            _check(block)
        elif block.file is None:
            exec(compile(block.text, f"{page.name}", "exec"), {})


def _check(block: Block) -> None:
    assert block.file is not None, f"a spec needs a name in its first line: {block.text[:60]}"
    document = yaml.safe_load(block.text)
    if "sweep" in document:
        assert read_sweep(Path(block.file)) is not None
        return
    if "method" not in document and document["data"]["format"] != "shapes":
        Bench.model_validate(document)
        return
    found = verdict_of(block.file, None if "method" not in document else str(TINY), {})
    assert not found.faults, [str(fault) for fault in found.faults]


@pytest.mark.parametrize("page", with_code("console"), ids=lambda page: page.stem)
def test_commands_exist(page: Path):
    from typer.main import get_command

    from kdflow.cli.main import app

    root = get_command(app)
    lines = [
        line for block in blocks(page, "console") for line in block.text.splitlines() if line.startswith("$ kdflow ")
    ]
    for line in lines:
        words = shlex.split(line.removeprefix("$ kdflow "), comments=True)
        command = root.commands[words[0]]
        rest = words[1:]
        if hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("-")} <= known, line


def test_make_targets_in_the_pages_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"make (run|test|docs|evidence|clean)\b", page.read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_language_page_names_every_key():
    text = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    keys = {*Method.model_fields, *TermEntry.model_fields, *Reduce.model_fields, *Bench.model_fields}
    missing = sorted(key for key in keys if f"`{key}`" not in text and f"`{key}:" not in text and f"{key}:" not in text)
    assert not missing


def test_own_op_is_small():
    """A wholly new loss costs at most 30 lines of Python in one file."""
    (first, *_) = [block for block in blocks(ROOT / "docs" / "own-op.md", "python") if block.file == "margin.py"]
    assert len(first.text.splitlines()) <= 31


def test_links_in_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target
