"""Dotted paths into a document: what they mean, and values that are set, dropped and found by them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import yaml

from kdflow.errors import UsageError, choices
from kdflow.spec.load import Document, Steps, dotted, parse

BENCH_PATHS = ("data.", "student.", "teacher", "recipe.", "evaluation.")
"""Dotted paths that start so belong to the bench, all others to the method."""
FIXED = {
    "kdflow": "it is the version of the language that the file is written in",
    "method": "it is the name of the file's method",
    "bench": "name another bench with --bench",
    "plugins": "plugins are imported before anything is set; name them in the file",
    "wraps": "the wrapped method is read before anything is set; write a file that wraps it",
    "rewrite": "rules are read before anything is set; write them into the file",
    "variants": "variants are chosen by the bench; set what they change",
}
"""Keys of a method that neither an override nor a variant can change, and what to do instead."""


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """``["terms.a.weight=2"]`` -> ``{"terms.a.weight": 2}``; raises UsageError for anything else."""
    result: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals or not path.strip():
            raise UsageError(f"--set {pair}: write PATH=VALUE, for example terms.neck.weight=2")
        try:
            read_as = parse(f"value: {text}", "--set").data
            if list(read_as) != ["value"]:
                raise ValueError("write one value")
            result[path.strip()] = read_as["value"]
        except (yaml.YAMLError, ValueError) as error:
            raise UsageError(f"--set {pair}: {error}") from None
    return result


def steps_of(path: str) -> Steps:
    """Dotted path -> keys; ``terms.det.loss_x.weight`` keeps ``det.loss_x`` as one key, ``search.PATH`` the whole path."""
    parts = path.split(".")
    if len(parts) > 2 and parts[:2] == ["terms", "det"]:
        parts[1:3] = [f"det.{parts[2]}"]
    elif parts[0] == "search" and len(parts) > 2:
        parts[1:] = [".".join(parts[1:])]
    return tuple(parts)


def exists(data: Any, steps: Steps) -> bool:
    """Whether something lies at a path."""
    for step in steps:
        if not isinstance(data, dict) or step not in data:
            return False
        data = data[step]
    return True


def set_path(document: Document, steps: Steps, value: Any, *, create: bool, mark: Steps | None = None) -> None:
    """Set one value; with ``create=False`` every key but the last must exist, otherwise a fault is recorded."""
    holder: Any = document.data
    for depth, step in enumerate(steps[:-1]):
        if not isinstance(holder, dict) or (step not in holder and not create and depth < 2):
            known = holder if isinstance(holder, dict) else ()
            document.report(mark or steps[:depth], f'nothing is called "{dotted(steps)}".{choices(str(step), known)}')
            return
        if holder.get(step) is None or holder[step] is True:  # what is off, or on as it is by default, is opened
            holder[step] = {}
        holder = holder[step]
    if not create and steps[0] == "constants" and isinstance(holder, dict) and steps[-1] not in holder:
        document.report((), f'there is no constant "{steps[-1]}".{choices(str(steps[-1]), holder)}')
        return
    if not isinstance(holder, dict):
        document.report(mark or steps, f'nothing can be set at "{dotted(steps)}"')
        return
    holder[steps[-1]] = value
    if mark is not None:
        _move_marks(document, mark, steps)


def override(document: Document, values: Mapping[Steps, Any]) -> None:
    """Set values that must lie at places which are there."""
    for steps, value in values.items():
        set_path(document, steps, copy.deepcopy(value), create=False)


def drop(document: Document, steps: Steps) -> None:
    """Leave out what lies at a path, if anything does."""
    holder: Any = document.data
    for step in steps[:-1]:
        holder = holder.get(step, {}) if isinstance(holder, dict) else {}
    if isinstance(holder, dict):
        holder.pop(steps[-1], None)


def _move_marks(document: Document, source: Steps, target: Steps) -> None:
    """Values now found at ``target`` were written at ``source``."""
    if source == target:
        return
    for path in [p for p in document.marks if p[: len(target)] == target]:
        del document.marks[path]
    copy_marks(document, source, target)
    document.marks.setdefault(target, document.mark(source))


def copy_marks(document: Document, source: Steps, target: Steps) -> None:
    """Values at ``target`` without lines of their own have those of ``source``."""
    size = len(source)
    for path, mark in list(document.marks.items()):
        if path[:size] == source:
            document.marks.setdefault((*target, *path[size:]), mark)
