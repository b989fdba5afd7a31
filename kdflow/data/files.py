"""Text files of a data set, read whole: bounded in size, regular files only, UTF-8; what cannot be read is one DataError."""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kdflow.data.annotations import Trouble
from kdflow.data.values import shown
from kdflow.errors import DataError

JSON_BYTES = 4 * 2**30
XML_BYTES = 16 * 2**20
LIST_BYTES = 256 * 2**20
_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class UnreadableFileError(DataError):
    """A file that cannot be read.

    Attributes:
        reason: Why, without the file's name.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{path}  {Trouble.UNREADABLE}: {reason}")


def expand(path: str | Path) -> Path:
    """``path`` with ``~`` and environment variables replaced; raises DataError where that is impossible."""
    text = os.path.expandvars(str(path))
    if "\0" in text:
        raise DataError(f"{shown(text)} is no path")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise DataError(f"{path}: there is no such home folder") from None


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes; raises UnreadableFileError."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise UnreadableFileError(path, "it is no regular file")
        if facts.st_size > limit:
            raise UnreadableFileError(path, f"it has {facts.st_size} bytes, at most {limit} are read")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableFileError(path, error.strerror or str(error)) from None
    except ValueError as error:  # a path that no system call takes
        raise UnreadableFileError(path, str(error)) from None


def decode(path: Path, content: bytes) -> str:
    """UTF-8 text, with or without its byte order mark; raises UnreadableFileError for any other encoding."""
    for mark, name in _OTHER_ENCODINGS.items():
        if content.startswith(mark):
            raise UnreadableFileError(path, f"it is written in {name}. Next: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise UnreadableFileError(
            path, f"line {line} is not UTF-8 (byte 0x{byte:02x}). Next: save it as UTF-8"
        ) from None


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, without their ends; raises UnreadableFileError."""
    text = decode(path, read_bytes(path, LIST_BYTES))
    if "\0" in text:
        raise UnreadableFileError(
            path, f"line {text[: text.index(chr(0))].count(chr(10)) + 1} holds a NUL: this is no text"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_json(path: Path) -> Any:
    """A JSON document in which every key of an object stands once; raises UnreadableFileError."""
    return _parsed(path, decode(path, read_bytes(path, JSON_BYTES)))


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Number (from 1) and JSON document of every line that is not blank; raises UnreadableFileError."""
    text = decode(path, read_bytes(path, JSON_BYTES))
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _parsed(path, line, number)


def _parsed(path: Path, text: str, first: int = 0) -> Any:
    """A JSON document; ``first`` is the line that it stands in, 0 where it is the whole file."""
    place = f"line {first}: " if first else ""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except _KeyTwiceError as error:
        raise UnreadableFileError(path, f"{place}{error}") from None
    except json.JSONDecodeError as error:
        raise UnreadableFileError(path, f"{place}not JSON ({error})") from None
    except RecursionError:
        raise UnreadableFileError(path, f"{place}its lists are nested too deeply") from None
    except ValueError:  # Python's bound on the digits of a number
        digits = re.search(r"[0-9]{4301,}", text)
        line = text.count("\n", 0, digits.start()) + max(1, first) if digits else first
        length = len(digits[0]) if digits else 0
        raise UnreadableFileError(path, f"line {line} holds a number of {length} digits") from None


class _KeyTwiceError(Exception):
    """An object with a key that stands twice, of which one value would be lost."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        rest = shown({key: value for key, value in pairs if not isinstance(value, (list, dict))})
        raise _KeyTwiceError(f"the key {shown(twice)} stands twice in one object ({rest})")
    return found


def climbs(folder: Path, name: str) -> bool:
    """True when ``name``, taken inside ``folder``, names something outside of it."""
    base = os.path.normpath(folder)
    path = os.path.normpath(os.path.join(base, name))
    return os.path.commonpath([base, path]) != base if os.path.isabs(path) == os.path.isabs(base) else True


class Folders:
    """Which files lie in which folders; every folder is listed once, and only links are followed.

    Args:
        allowed: Folders that files must lie in; none allows any place.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = [os.path.realpath(folder) for folder in allowed]
        self._listed: dict[str, tuple[bool, dict[str, bool]]] = {}

    def has(self, file: str) -> bool:
        """True when the file is listed in its folder."""
        folder, name = os.path.split(file)
        return name in self._list(folder)[1]

    def leaves(self, file: str) -> bool:
        """True when the file's name or a link leads out of the allowed folders."""
        folder, name = os.path.split(file)
        inside, entries = self._list(folder)
        if name in ("", ".", "..") or not inside:
            return True
        return entries.get(name, False) and not self._inside(os.path.realpath(file))

    def _list(self, folder: str) -> tuple[bool, dict[str, bool]]:
        """Whether a folder lies inside the allowed ones, and for each entry whether it is a link."""
        if folder not in self._listed:
            inside = self._inside(os.path.realpath(folder))
            try:
                with os.scandir(folder) as entries:
                    found = {entry.name: entry.is_symlink() for entry in entries} if inside else {}
            except OSError:
                found = {}
            self._listed[folder] = inside, found
        return self._listed[folder]

    def _inside(self, real: str) -> bool:
        return not self._allowed or any(real == a or real.startswith(a.rstrip("/") + "/") for a in self._allowed)
