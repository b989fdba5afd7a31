"""A method that names another one (``wraps``, ``rewrite``): both files as one document."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdflow.errors import SpecError, UsageError
from kdflow.spec.load import Document, Mark, Steps
from kdflow.spec.paths import steps_of
from kdflow.spec.salvage import GROUPS

Finder = Callable[[str], Path]
Load = Callable[[Path, Finder], Document]
_OWN = ("method", "title", "paper", "fidelity", "bench", "wraps")


def wrapped(document: Document, find: Finder | None, load: Load) -> Document:
    """Merge the method named by ``wraps`` below this document, with the rules of the method named by ``rewrite``.

    Args:
        document: A method file, which is changed.
        find: Finds the file of another method by slug.
        load: Reads that file, given what finds the methods that it names itself.

    Raises:
        SpecError: Another method cannot be read, or leads back to itself.
    """
    if isinstance(rules := document.data.get("rewrite"), str) and find is not None:
        other = _named(document, "rewrite", rules, find, load)
        document.data["rewrite"] = other.data.get("rewrite", [])
        if plugins := _plugins_of(other, document):
            document.data["plugins"] = plugins
    base_name = document.data.get("wraps")
    if not isinstance(base_name, str):
        return document
    if find is None:
        document.report(("wraps",), "another method can only be wrapped where methods can be found by name")
        document.check()
        return document
    base = _named(document, "wraps", base_name, find, load)
    _join_files(base, document)
    _forget(base.data, _removed(base.data, document.data))
    place = document.mark(("wraps",))  # what comes from the other file is found at the line that names it
    marks = {**dict.fromkeys(base.marks, place), **_behind(base.data, document)}
    return Document(document.file, _merge(base.data, document.data), marks)


def _named(document: Document, key: str, name: str, find: Finder, load: Load) -> Document:
    """The document of another method, named at ``key``; it may not lead back to itself.

    A slug is found by ``find``, a file beside the one that names it.
    """
    if name.endswith((".yaml", ".yml")):
        name = str(Path(document.file).parent / name)

    def find_others(other: str) -> Path:
        if other == name:
            raise UsageError(f'"{name}" leads back to itself')
        return find(other)

    try:
        return load(find(name), find_others)
    except UsageError as error:
        document.report((key,), str(error))
        raise SpecError(document.faults) from None


def _join_files(base: Document, own: Document) -> None:
    """Let what a wrapped file names (plugins, a bench) be found from the file that wraps it; both files' plugins are needed."""
    if plugins := _plugins_of(base, own):
        own.data["plugins"] = plugins
    bench = base.data.get("bench")
    if isinstance(bench, str) and bench.endswith((".yaml", ".yml")):
        base.data["bench"] = _seen_from(own, base, bench)


def _plugins_of(other: Document, own: Document) -> list[Any]:
    """Plugins of another file, as seen from this one, and behind them its own."""
    theirs, ours = other.data.get("plugins"), own.data.get("plugins")
    moved = [_seen_from(own, other, str(plugin)) for plugin in (theirs if isinstance(theirs, list) else ())]
    return list(dict.fromkeys([*moved, *(map(str, ours) if isinstance(ours, list) else ())]))


def _seen_from(own: Document, other: Document, name: str) -> str:
    here, there = Path(own.file).parent, Path(other.file).parent
    return name if here == there or Path(name).is_absolute() else os.path.relpath(there / name, here)


def _behind(base: Mapping[str, Any], own: Document) -> dict[Steps, Mark]:
    """Marks of a file whose variants and rules follow those of the one that it wraps."""
    first = {key: len(value) for key in ("variants", "rewrite") if isinstance(value := base.get(key), list)}
    return {
        (path[0], path[1] + first[path[0]], *path[2:])
        if len(path) > 1 and isinstance(path[1], int) and path[0] in first and isinstance(own.data.get(path[0]), list)
        else path: mark
        for path, mark in own.marks.items()
    }


def _removed(base: Mapping[str, Any], own: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Entries of the wrapped method that this file sets to null."""
    return {
        (group, name)
        for group in (*GROUPS, "constants")
        for name, entry in (own.get(group) or {}).items()
        if entry is None and name in (base.get(group) or {})
    }


def _forget(data: dict[str, Any], removed: set[tuple[str, str]]) -> None:
    """Leave out search paths and changes of variants that speak of removed entries, and variants that spoke of nothing else."""

    def gone(path: Any) -> bool:
        return steps_of(str(path))[:2] in removed

    if isinstance(search := data.get("search"), dict):
        data["search"] = {path: value for path, value in search.items() if not gone(path)}
    if isinstance(variants := data.get("variants"), list):
        left = [(_without(variant, gone) if isinstance(variant, dict) else variant, variant) for variant in variants]
        data["variants"] = [kept for kept, variant in left if kept == variant or kept.get("set") or kept.get("drop")]


def _without(variant: dict[str, Any], gone: Callable[[Any], bool]) -> dict[str, Any]:
    kept = dict(variant)
    if isinstance(drop := variant.get("drop"), list):
        kept["drop"] = [path for path in drop if not gone(path)]
    if isinstance(changes := variant.get("set"), dict):
        kept["set"] = {path: value for path, value in changes.items() if not gone(path)}
    return kept


def _merge(base: Any, own: Any) -> Any:
    """``own`` over ``base``: mappings join by key, a null drops an entry, own variants and rules follow, all else replaces."""
    if not isinstance(base, dict) or not isinstance(own, dict):
        return own
    merged = {key: value for key, value in base.items() if key not in _OWN or key not in own}
    for key, value in own.items():
        if value is None and key in merged:
            del merged[key]
        elif key in ("variants", "rewrite") and isinstance(merged.get(key), list) and isinstance(value, list):
            merged[key] = [*merged[key], *value]
        else:
            merged[key] = _merge(merged.get(key), value) if key in merged else value
    return merged
