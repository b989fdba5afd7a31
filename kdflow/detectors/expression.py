"""A call that is made here and written down for an exported student: one description, so that the two cannot differ."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from kdflow.source import Source, call_lines

_UNSET = object()


class Expression:
    """``target(*args, **kwargs)``, whose arguments may be expressions themselves; evaluated at most once.

    Args:
        target: A class or function of a library, or of a plain module of kdflow that an exported student carries along.
        args: Positional arguments: plain data, classes, functions or expressions.
        kwargs: Keyword arguments; an expression among them is written as a statement of its own, under the keyword.
    """

    def __init__(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.target, self.args, self.kwargs = target, args, kwargs
        self.name = ""
        self._value: Any = _UNSET

    def called(self, name: str) -> Expression:
        """The same expression, written as a statement ``name = ...``."""
        self.name = name
        return self

    def given(self, value: Any) -> Expression:
        """The same expression with its value, where that was made otherwise (with weights, say)."""
        self._value = value
        return self

    def build(self) -> Any:
        """The value; arguments are evaluated in the order in which they are written."""
        if self._value is _UNSET:
            args = [a.build() if isinstance(a, Expression) else a for a in self.args]
            kwargs = {key: a.build() if isinstance(a, Expression) else a for key, a in self.kwargs.items()}
            self._value = self.target(*args, **kwargs)
        return self._value

    def source(self, title: str) -> Source:
        """Python that makes the value as ``model``."""
        targets = list(dict.fromkeys(self.called("model")._targets()))
        foreign = tuple(import_line(target) for target in targets if not _is_carried(target))
        carried = dict.fromkeys(sys.modules[target.__module__] for target in targets if _is_carried(target))
        return Source(title, "torchvision", foreign).carrying(*carried).then(*self._statements())

    def _targets(self) -> Iterator[Callable[..., Any]]:
        yield self.target
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, Expression):
                yield from value._targets()
            elif callable(value):
                yield value

    def _statements(self) -> Iterator[str]:
        """The statements that this one needs, then its own."""
        for key, value in self.kwargs.items():
            if isinstance(value, Expression) and not value.name:
                value.called(key)
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, Expression):
                yield from value._statements()
        if self.name:
            opening = f"{self.name} = {self.target.__name__}({', '.join(map(_written, self.args))}"
            yield from call_lines(opening, self.kwargs, _written) if self.kwargs else (f"{opening})",)

    def text(self) -> str:
        """The call as an expression of Python."""
        arguments = [*map(_written, self.args), *(f"{key}={_written(value)}" for key, value in self.kwargs.items())]
        return f"{self.target.__name__}({', '.join(arguments)})"


def _written(value: Any) -> str:
    if isinstance(value, Expression):
        return value.name or value.text()
    return value.__name__ if callable(value) else repr(value)


def _is_carried(target: Callable[..., Any]) -> bool:
    return target.__module__.startswith("kdflow.")


def import_line(target: Callable[..., Any]) -> str:
    """The import of a class or function from the shortest path that offers it."""
    parts = target.__module__.split(".")
    paths = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    path = next(p for p in paths if getattr(importlib.import_module(p), target.__name__, None) is target)
    return f"from {path} import {target.__name__}"
