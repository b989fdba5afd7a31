"""Names for parts: ops, detectors, data formats. Packages import their own modules, so no list is ever edited."""

from __future__ import annotations

import fnmatch
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Generic, TypeVar

from kdflow.errors import KdflowError, choices

T = TypeVar("T")


class UnknownNameError(KdflowError, KeyError):
    """No part has this name; the message lists what exists."""

    def __str__(self) -> str:
        return str(self.args[0])


class Registry(Generic[T]):
    """Parts of one sort by name; a name has one owner, and an unknown name lists the known ones.

    Args:
        sort: The word for one part, used in messages (``op``, ``detector``).
        package: Package whose modules register the parts; imported on first use, not before.
    """

    def __init__(self, sort: str, package: str) -> None:
        self.sort = sort
        self.package = package
        self._parts: dict[str, T] = {}
        self._loaded = False

    def add(self, name: str, part: T) -> T:
        """Register ``part``; raises ValueError when the name is taken."""
        if name in self._parts:
            raise ValueError(f'{self.sort} "{name}" is registered twice: {self._parts[name]!r} and {part!r}')
        self._parts[name] = part
        return part

    def load(self) -> None:
        """Import every module of the package once, so that all its parts are registered."""
        if self._loaded:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.walk_packages(package.__path__, f"{self.package}."):
            importlib.import_module(module.name)
        self._loaded = True

    def get(self, name: str) -> T:
        """The part of this name; raises UnknownNameError with close matches."""
        self.load()
        if name not in self._parts:
            raise UnknownNameError(f'no {self.sort} "{name}".{choices(name, self._parts)}')
        return self._parts[name]

    def names(self, pattern: str = "*") -> list[str]:
        """Registered names matching a shell pattern, sorted."""
        self.load()
        return sorted(n for n in self._parts if fnmatch.fnmatchcase(n, pattern))

    def __contains__(self, name: object) -> bool:
        self.load()
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
