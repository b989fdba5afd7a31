"""Check what a spec offers to the search: every path must lead to something that exists on this bench."""

from __future__ import annotations

from collections.abc import Mapping

from kdflow.errors import choices
from kdflow.operation import OPS
from kdflow.spec.load import Document
from kdflow.spec.method import Method, ModuleEntry, NodeEntry, Preparation, TermEntry
from kdflow.spec.resolve import steps_of

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


def _keys(entry: Entry) -> set[str]:
    """Keys that may be searched in an entry; empty where the op is not known or a stage is called."""
    name = entry.loss if isinstance(entry, TermEntry) else entry.op
    own = {"weight", "schedule", "reduce"} if isinstance(entry, TermEntry) else set()
    if name is None:
        return own
    return own | set(OPS.get(name).options.model_fields) if name in OPS else set()
