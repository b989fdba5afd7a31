"""One process at a time, among those that share a folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from kdflow.errors import UsageError
from kdflow.files import in_words

try:
    import fcntl
except ImportError:  # a system without file locks
    fcntl = None  # type: ignore[assignment]


class HeldError(UsageError):
    """Another process works in the folder."""


@contextmanager
def alone(folder: Path, waiting: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Wait until no other process is inside, then go in; a process that dies leaves by itself.

    Args:
        folder: What is worked on; the lock lies beside it.
        waiting: Told once who is inside, if somebody is.
    """
    with _opened(folder.parent / f"{folder.name}.lock") as file:
        if not _taken(file):
            waiting(f"{folder} is in use by {_holder(file)}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        with _signed(file):
            yield


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Work in a folder that nobody else works in; the lock lies inside. A process that dies leaves by itself.

    Raises:
        HeldError: Another process works in it; says which.
    """
    with _opened(folder / ".lock") as file:
        if not _taken(file):
            raise HeldError(
                f"{folder} is in use by {_holder(file)}: this very run is under way there. "
                "Next: wait for it, or end it and run this again with --resume"
            )
        with _signed(file):
            yield


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    with in_words(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    with file:
        yield file


def _taken(file: IO[str]) -> bool:
    """Take the lock; False where another process has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


@contextmanager
def _signed(file: IO[str]) -> Iterator[None]:
    """Say in the lock who holds it."""
    _sign(file, f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}")
    try:
        yield
    finally:
        _sign(file, "")
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_UN)


def _sign(file: IO[str], words: str) -> None:
    try:
        file.seek(0)
        file.truncate()
        file.write(words)
        file.flush()
    except OSError:  # a full disk: the lock holds without a name
        return


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "another process"
