"""Where kdflow keeps things: one answer for whatever writes and whatever reads, and names that are safe in a path."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from kdflow.errors import UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def expand(path: str | Path) -> Path:
    """``path`` with ``~`` and environment variables replaced."""
    return Path(os.path.expandvars(str(path))).expanduser()


def home() -> Path:
    """Where trained teachers and drawn data are kept for later runs: ``$KDFLOW_HOME``, else ``~/.cache/kdflow``."""
    return expand(os.environ.get("KDFLOW_HOME") or "~/.cache/kdflow").absolute()


def runs_folder(given: str | Path | None = None) -> Path:
    """Folder of run outputs and of the default store: the given one, else ``$KDFLOW_RUNS``, else ``kdflow-runs`` here."""
    return expand(given or os.environ.get("KDFLOW_RUNS") or "kdflow-runs").absolute()


def name_problem(name: str) -> str:
    """Why ``name`` cannot be the name of a folder, with what can; empty where nothing is wrong with it."""
    if NAME.fullmatch(name):
        return ""
    return f"{name!r} is no name: it becomes a folder, so write letters, digits, and . _ + - behind the first (at most 100)"


def checked_name(name: str, where: str) -> str:
    """The name as it is; raises UsageError, which begins with ``where``, for one that could leave its folder."""
    if problem := name_problem(name):
        raise UsageError(f"{where}: {problem}")
    return name


def slug(text: str) -> str:
    """A name made of any text: itself where it is one already, else what is left of it and a hash of the whole."""
    if NAME.fullmatch(text):
        return text
    kept = re.sub(r"[^A-Za-z0-9._+-]+", "_", text).lstrip("._+-")[:80]
    return "-".join(filter(None, (kept, hashlib.sha256(text.encode()).hexdigest()[:8])))
