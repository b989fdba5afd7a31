"""The broken specs: each file says in its first lines which faults kdflow must find, ``# expect: LINE text``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.paths import BENCH

FOLDER = Path(__file__).parent / "broken"
_EXPECT = re.compile(r"^# expect: (\d+) (.+)$")


@dataclass(frozen=True)
class Expected:
    line: int
    text: str


def files() -> list[Path]:
    return sorted(FOLDER.glob("*.yaml"))


def expected_of(path: Path) -> list[Expected]:
    matches = (_EXPECT.match(line) for line in path.read_text().splitlines())
    return [Expected(int(m[1]), m[2]) for m in matches if m]


def bench_for(path: Path) -> str | None:
    """The tiny bench, unless the file names one of its own."""
    return None if re.search(r"^bench:", path.read_text(), re.MULTILINE) else str(BENCH)
