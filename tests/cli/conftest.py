"""The command line, called in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kdflow.cli.main import main

TINY = Path(__file__).parents[1] / "benches" / "tiny.yaml"


@dataclass(frozen=True)
class Called:
    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys) -> Callable[..., Called]:
    def run(*words: object) -> Called:
        capsys.readouterr()
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return Called(code, said.out, said.err)

    return run


@pytest.fixture
def tiny() -> Path:
    return TINY
