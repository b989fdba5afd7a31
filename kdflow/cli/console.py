"""What commands print: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from kdflow.errors import without_passwords
from kdflow.escape import one_line

if TYPE_CHECKING:
    from rich.console import Console


def plain(text: str) -> str:
    """A docstring's text without the marks of its markup."""
    return text.replace("``", "")


def is_first() -> bool:
    """True in the process that speaks for all: the only one, or the first that torchrun or Slurm has started."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def say(text: str) -> None:
    """One result, on stdout."""
    typer.echo(without_passwords(text))


def note(text: str) -> None:
    """One remark, on stderr, without passwords."""
    typer.echo(without_passwords(text), err=True)


def say_json(data: Any, *, compact: bool = False) -> None:
    """Plain data as JSON on stdout; ``compact`` keeps it on one line. NaN and infinities become null."""
    say(json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, default=str, indent=None if compact else 2))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    if isinstance(data, float) and (data != data or data in (float("inf"), float("-inf"))):
        return None
    return data


def columns(rows: Sequence[Sequence[str]], head: Sequence[str] = (), indent: str = "") -> str:
    """Rows as aligned columns; the last column runs free."""
    every = [[one_line(cell) for cell in row] for row in ([head, *rows] if head else rows)]
    if not every:
        return ""
    widths = [max(len(row[i]) for row in every) for i in range(len(every[0]) - 1)]
    return "\n".join(
        (indent + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]])).rstrip()
        for row in every
    )


def stderr_console() -> Console:
    """A rich console on stderr."""
    from rich.console import Console

    return Console(stderr=True)
