"""Check what a spec offers to the search: every path must lead to something that exists on this bench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdflow.errors import choices
from kdflow.operation import OPS, Op
from kdflow.spec.faults import validate
from kdflow.spec.load import Document
from kdflow.spec.method import Method, ModuleEntry, NodeEntry, Preparation, SearchRange, TermEntry
from kdflow.spec.paths import steps_of

Entry = TermEntry | NodeEntry | ModuleEntry | Preparation


def check_search(method: Method, document: Document) -> None:
    """Report search paths whose last key is no key of the term or node; entries that a variant dropped are passed over."""
    groups: dict[str, Mapping[str, Entry]] = {
        "terms": method.terms,
        "nodes": method.nodes,
        "modules": method.modules,
        "prepare": method.prepare,
    }
    for path in method.search:
        group, *rest = map(str, steps_of(path))
        entry = groups.get(group, {}).get(rest[0]) if len(rest) > 1 else None
        known = _keys(entry) if entry is not None else None
        if known and rest[1] not in known:
            document.report(("search", path), f'{group}.{rest[0]} has no key "{rest[1]}".{choices(rest[1], known)}')
        elif entry is not None and known and len(rest) == 2:
            _check_values(entry, rest[1], method.search[path], document, path)


def _check_values(entry: Entry, key: str, wanted: SearchRange, document: Document, path: str) -> None:
    """Both ends of a range, or all choices, are taken by the op."""
    op = _op_of(entry)
    if op is None or key not in op.options.model_fields:
        return
    given = {name: value for name, value in entry.arguments.items() if name in op.options.model_fields}
    for value in wanted.choices or (wanted.low, wanted.high):
        trial = Document(document.file)
        before = validate(op.options, given, Document(document.file))
        if before is not None and validate(op.options, {**given, key: _whole(value)}, trial) is None:
            document.report(("search", path), f"{value} is no value of {op.name}: {trial.faults[0].problem}")


def _whole(value: Any) -> Any:
    """Ranges of whole numbers are read as numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _op_of(entry: Entry) -> Op | None:
    name = entry.loss if isinstance(entry, TermEntry) else entry.op
    return OPS.get(name) if name is not None and name in OPS else None


def _keys(entry: Entry) -> set[str]:
    """Keys that may be searched in an entry; empty where the op is not known or a stage is called."""
    op = _op_of(entry)
    own = {"weight", "control", "schedule", "reduce"} if isinstance(entry, TermEntry) else set()
    if op is None:
        return own if (entry.loss if isinstance(entry, TermEntry) else entry.op) is None else set()
    return own | set(op.options.model_fields)
