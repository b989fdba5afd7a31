"""What kdflow raises, and how it speaks to the person who made the mistake."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SECRETS = (
    (re.compile(r"""([a-zA-Z][\w+.-]*://[^\s:/?#@"']*):[^\s"']+@"""), r"\1:***@"),
    (re.compile(r"""(https?://)[^\s:/?#@"']+@""", re.IGNORECASE), r"\1***@"),
    (re.compile(r"""([?&;]\w*(?:password|passwd|pwd|secret|token|api_?key)=)[^&;#\s"']+""", re.IGNORECASE), r"\1***"),
)


def without_passwords(text: str) -> str:
    """``text`` with the passwords and tokens of all addresses in it replaced by ``***``.

    Whatever leaves kdflow goes through here: messages, logs, tags, records, files that describe a run.
    """
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


class KdflowError(Exception):
    """Root of everything kdflow raises on purpose; the command line prints it without a traceback, and without passwords."""

    def __init__(self, *words: object) -> None:
        super().__init__(*(without_passwords(word) if isinstance(word, str) else word for word in words))


@dataclass(frozen=True, order=True)
class Fault:
    """One mistake in one place: ``file:line:col  path: problem``.

    Attributes:
        file: The file as the user named it, or a word such as ``graph`` where no file is at fault.
        line: 1-based line, 0 where unknown.
        column: 1-based column, 0 where unknown.
        path: Dotted path inside the document, for example ``terms.neck.weight``.
        problem: What is wrong, what would be right, and what to do next.
    """

    file: str
    line: int
    column: int
    path: str
    problem: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}  {self.path}: {self.problem}" if self.path else f"{place}  {self.problem}"


class SpecError(KdflowError, ValueError):
    """All faults of a spec, a bench or the graph they make, in the order of the file."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        by_place = {(f.file, f.line, f.column, f.problem): f for f in sorted(faults, reverse=True)}
        self.faults = tuple(sorted(by_place.values()))
        count = f"{len(self.faults)} problem{'s' if len(self.faults) != 1 else ''}, nothing was run."
        super().__init__("\n".join([*map(str, self.faults), count]))


class DataError(KdflowError, ValueError):
    """Broken data: missing files, boxes outside their image, unknown classes."""


class UsageError(KdflowError, ValueError):
    """A wrong option or argument, outside any file."""


class MissingPackageError(KdflowError, ImportError):
    """An optional package that a chosen part needs is not installed."""


class InvariantError(KdflowError, RuntimeError):
    """Training was stopped because it had silently gone wrong.

    Attributes:
        culprit: The term, module or parameter at fault.
    """

    def __init__(self, culprit: str, message: str) -> None:
        self.culprit = culprit
        super().__init__(f"{culprit}: {message}")


class LostProcessError(KdflowError, RuntimeError):
    """Another process of the same run died or cannot be reached, so this one cannot go on."""

    def __init__(self, rank: int, processes: int, words: str) -> None:
        super().__init__(
            f"process {rank} of {processes} lost the link to another process of this run, which has ended or cannot be reached "
            f"({words}). What was done since the last checkpoint is lost; look for the first error of another process, then "
            "start all processes again with --resume"
        )


def choices(word: str, known: Iterable[str], limit: int = 12) -> str:
    """The end of a message about an unknown ``word``: close matches, then what exists."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=2, cutoff=0.6)
    hint = f" Did you mean {' or '.join(repr_name(name) for name in close)}?" if close else ""
    listed = ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
    return f"{hint} (known: {listed})" if names else f"{hint} (none are known)"


def repr_name(name: str) -> str:
    """``name`` in double quotes, as every message shows names."""
    return f'"{name}"'
