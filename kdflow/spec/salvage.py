"""What is left of a faulty method, so that its other mistakes are found in the same round."""

from __future__ import annotations

import copy
from typing import Any

from kdflow.spec.faults import validate
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import Method

GROUPS = ("modules", "prepare", "nodes", "terms")
_ROUNDS = 4
_ACTIONS = ("op", "call", "module", "copy", "loss", "value")


def salvage(document: Document) -> tuple[Method | None, frozenset[str]]:
    """The method without what is wrong with its shape; the faults go into ``document``.

    Args:
        document: A method with its variants and ``like`` applied; its data stay as they are.

    Returns:
        The method, None where nothing can be made of it, and the names of nodes, modules and preparations that had to be left
        out: what refers to them is no further mistake.
    """
    data, lost = copy.deepcopy(document.data), set[str]()
    rest = Document(document.file, data, document.marks)
    for place, _ in document.places:  # a copy of nothing, or a change that leads nowhere
        lost |= _leave_out(data, place[:2])
    if any(place[-1:] == ("like",) for place, _ in document.places):
        _leave_out_empty_copies(data)
    for attempt in range(_ROUNDS):
        before = len(rest.places)
        method = validate(Method, data, rest)
        if attempt == 0:
            document.faults += rest.faults
            document.places += rest.places
        if method is not None:
            return method, frozenset(lost)
        for place, _ in rest.places[before:]:
            lost |= _leave_out(data, place)
        data = rest.data = {"kdflow": 1, "method": "unnamed", **data}
    return None, frozenset(lost)


def _leave_out_empty_copies(data: dict[str, Any]) -> None:
    """Terms that were to be copies of what could not be copied."""
    terms = data.get("terms")
    if not isinstance(terms, dict):
        return
    for name, term in list(terms.items()):
        if isinstance(term, dict) and not {"loss", "value"} & set(term) and not str(name).startswith("det."):
            del terms[name]


def _leave_out(data: dict[str, Any], place: Steps) -> set[str]:
    """Remove the faulty key, or the entry around it; gives the names that are lost with it."""
    if not place:
        return set()
    group = str(place[0])
    entries = data.get(group)
    if group not in GROUPS or len(place) == 1 or not isinstance(entries, dict):
        data.pop(group, None)
        return {str(name) for name in entries} if group in GROUPS and isinstance(entries, dict) else set()
    entry = entries.get(place[1])
    key = place[2] if len(place) > 2 else None
    if isinstance(entry, dict) and key in entry and key not in _ACTIONS:
        entry.pop(key)
        return set()
    entries.pop(place[1], None)
    return {str(place[1])} if group != "terms" else set()
