"""Nodes of a method that no term needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kdflow.spec.load import Document
from kdflow.spec.method import Method


def report_unused(method: Method, document: Document) -> None:
    """A declared node that no term names, directly or through other nodes, is a mistake and not a decoration."""
    named: set[str] = set()
    searched = [entry.choices for entry in method.search.values()]  # what some trial names is of use, too
    waiting: list[Any] = [
        method.wiring, *searched, *(e.model_dump() for e in (*method.terms.values(), *method.prepare.values()))
    ]
    while waiting:
        for word in _words(waiting.pop()):
            base = re.split(r"[.\[@]", word, maxsplit=1)[0]
            if base in method.nodes and base not in named:
                waiting.append(method.nodes[base].model_dump())
            named.add(base)
    for name in method.nodes:
        if name not in named:
            document.report(("nodes", name), "no term uses this node; remove it, or name it in a term")
    called = {str(name).partition(".")[0] for entry in method.nodes.values() for name in (entry.module, entry.call) if name}
    for name, entry in method.modules.items():
        if name not in called and (entry.build is None or name not in named):
            problem = "no node uses this module; remove it, or apply it with module: (copies and parts of detectors with call:)"
            document.report(("modules", name), problem)


def _words(value: Any) -> Iterator[str]:
    """All texts inside plain data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("op", "loss", "call", "module", "at", "schedule"):
                yield from _words(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _words(inner)
