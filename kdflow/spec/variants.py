"""Variants that fit a run, and copies of terms (``like``), written into a document."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Collection, Mapping
from typing import Any

from kdflow.errors import choices
from kdflow.spec.load import Document, Steps
from kdflow.spec.paths import copy_marks, drop, set_path, steps_of

Context = Mapping[str, str]


def holds(when: Mapping[str, Any], context: Context) -> bool:
    """True where all conditions of a variant hold."""
    for key, wanted in when.items():
        patterns = [wanted] if isinstance(wanted, str) else list(wanted)
        if not any(fnmatch.fnmatchcase(context.get(key, ""), str(pattern)) for pattern in patterns):
            return False
    return True


def apply_variants(document: Document, chosen: Collection[int]) -> None:
    """Drop and set what the chosen variants say, in their order; a part of an entry that is gone is not set."""
    variants = document.data.get("variants")
    dropped: set[Steps] = set()
    for index, variant in enumerate(variants if isinstance(variants, list) else ()):
        if index not in chosen or not isinstance(variant, dict):
            continue
        for path in variant.get("drop") or []:
            drop(document, steps_of(str(path)))
            dropped.add(steps_of(str(path)))
        for path, value in (variant.get("set") or {}).items():
            steps = steps_of(path)
            dropped.discard(steps)
            if steps[:2] not in dropped:  # a part of an entry that is gone is not wanted either
                target = _inside_copy(document, steps)
                set_path(document, target, copy.deepcopy(value), create=True, mark=("variants", index, "set", path))


def _inside_copy(document: Document, steps: Steps) -> Steps:
    """Where a change inside a term with ``like`` waits for the copy: under one dotted key, so that it joins what is copied."""
    terms = document.data.get("terms")
    term = terms.get(steps[1]) if isinstance(terms, dict) and steps[0] == "terms" and len(steps) > 3 else None
    if isinstance(term, dict) and "like" in term and steps[2] not in term:
        return (*steps[:2], ".".join(map(str, steps[2:])))
    return steps


def expand_dotted(document: Document) -> None:
    """``reduce.over: [...]`` inside a term means ``reduce: {over: [...]}``; terms with ``like`` keep it for the copy."""
    terms = document.data.get("terms")
    for name, term in (terms or {}).items() if isinstance(terms, dict) else ():
        if isinstance(term, dict) and "like" not in term:
            for key in [k for k in term if "." in k]:
                set_path(
                    document, ("terms", name, *key.split(".")), term.pop(key), create=True, mark=("terms", name, key)
                )


def expand_likes(document: Document) -> None:
    """Terms with ``like: other`` start as a copy of that term; their own keys go on top."""
    terms = document.data.get("terms")
    if not isinstance(terms, dict):
        return
    for name in list(terms):
        _expand_like(document, terms, name, ())


def _expand_like(document: Document, terms: dict[str, Any], name: str, seen: tuple[str, ...]) -> None:
    term = terms[name]
    if not isinstance(term, dict) or "like" not in term:
        return
    source, place = term["like"], ("terms", name, "like")
    if source in (*seen, name) or not isinstance(source, str) or not isinstance(terms.get(source), dict):
        reason = "copies itself" if source in (*seen, name) else f'no term "{source}".{choices(str(source), terms)}'
        document.report(place, reason)
        term.pop("like")
        return
    _expand_like(document, terms, source, (*seen, name))
    own = {key: value for key, value in term.items() if key != "like"}
    terms[name] = copy.deepcopy(terms[source])
    copy_marks(document, ("terms", source), ("terms", name))
    for key, value in own.items():
        set_path(document, ("terms", name, *key.split(".")), value, create=True, mark=("terms", name, key))
