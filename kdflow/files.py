"""Files that a kill, a full disk or a second process cannot leave half written, and words for what a disk refuses."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdflow.errors import KdflowError

_REASONS: Mapping[int, str] = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "there is no permission to write there",
    errno.EPERM: "there is no permission to write there",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EEXIST: "a file of that name is where a folder is needed",
    errno.EISDIR: "it is a folder",
    errno.ENOENT: "its folder is gone",
    errno.EFBIG: "the file would be larger than this system allows",
    errno.ENAMETOOLONG: "the name is too long",
}
DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
"""What a disk refuses, wherever it is met; other refusals depend on what was asked."""
NEXT = "Next: make room or name another folder, then run the same command with --resume; what was written before is whole"


class WriteError(KdflowError, OSError):
    """Something could not be written: the disk is full, read-only or gone. Whatever was there before is whole."""


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Turn what the system refuses inside into a WriteError about ``path``."""
    try:
        yield
    except KdflowError:
        raise
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch's writer trips over its own refusal
        if not isinstance(cause, OSError):
            raise
        raise WriteError(f"{path} cannot be written: {reason_of(cause)}. {NEXT}") from error


def reason_of(error: OSError) -> str:
    """What the system refuses, in words."""
    return _REASONS.get(error.errno or 0, error.strerror or str(error) or type(error).__name__)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to be written inside; it takes its place when all of it is on the disk, else it is removed.

    Raises:
        WriteError: It cannot be written; ``path`` is then as it was.
    """
    draft = path.with_name(f".{os.getpid()}-{threading.get_ident()}.{path.name}")
    with in_words(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            _flush(draft)
            os.replace(draft, path)
        finally:
            _forget(draft)


def _flush(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _forget(draft: Path) -> None:
    try:
        draft.unlink(missing_ok=True)
    except OSError:
        return  # what went wrong before is what has to be told


def write_text(path: Path, text: str) -> Path:
    """Write a text, whole or not at all; returns the path. Raises WriteError."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, content: Any) -> Path:
    """Write plain data as JSON, whole or not at all; returns the path. Raises WriteError."""
    return write_text(path, as_json(content))


def as_json(content: Any) -> str:
    """Plain data as the text that :func:`write_json` writes."""
    return json.dumps(content, indent=1, default=str) + "\n"


def read_json(path: Path, tell: Callable[[str], None] = lambda _: None) -> Any:
    """The content of a JSON file; None where there is none, or where it cannot be read, which is then told."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        tell(f"{path} cannot be read ({type(error).__name__}: cut off or damaged), so it counts as absent")
        return None
