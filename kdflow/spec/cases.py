"""Which variants of a method can apply together, and conditions that can never hold."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ValidationError

from kdflow.errors import choices
from kdflow.spec.load import Document
from kdflow.spec.method import Variant

Families = Mapping[str, str]
"""Detector -> family."""
_OWNERS = ("student", "teacher")
_AT_MOST = 64


@dataclass
class Case:
    """Variants that apply together on some pair of detectors.

    Attributes:
        variants: Their indices.
        detectors: Owner -> detectors of the pairs on which just these apply.
    """

    variants: frozenset[int]
    detectors: dict[str, set[str]] = field(default_factory=dict)


def cases_of(document: Document, families: Families, benches: Sequence[str], but: Collection[int] = ()) -> list[Case]:
    """All cases of a method's variants, those with fewer variants first; the first one is the file without any.

    Args:
        document: The method as written; variants of a wrong shape never apply.
        families: The detectors there are.
        benches: The benches that are known; other names are taken for benches of somebody else.
        but: Variants that are left aside, since they are at fault already.
    """
    conditions = {index: when for index, when in _conditions(document).items() if index not in but}
    named = (key.partition(".")[0] for when in conditions.values() for key in when if "." in key)
    owners = dict.fromkeys([*_OWNERS, *named])
    found: dict[frozenset[int], Case] = {}
    own_names = [p.replace("*", "x").replace("?", "x") for when in conditions.values() for p in when.get("bench", ())]
    by_bench = {
        frozenset(i for i, when in conditions.items() if _fits(when.get("bench"), bench))
        for bench in ["", *benches, *own_names]
    }
    profiles = [_profiles(owner, conditions, families) for owner in owners]
    for fitting, chosen in itertools.product(by_bench, itertools.product(*(p.items() for p in profiles))):
        variants = fitting.intersection(*(fits for fits, _ in chosen))
        case = found.setdefault(variants, Case(variants))
        for owner, (_, detectors) in zip(owners, chosen):
            case.detectors.setdefault(owner, set()).update(detectors)
    return sorted(found.values(), key=lambda case: (len(case.variants), sorted(case.variants)))[:_AT_MOST]


def report_conditions(document: Document, into: Document, families: Families, benches: Sequence[str]) -> None:
    """Report conditions that no detector fulfils, or that look like a misspelt bench."""
    for index, when in _conditions(document).items():
        before = len(into.faults)
        for key, patterns in when.items():
            owner, _, part = key.partition(".")
            known = benches if key == "bench" else sorted(families) if part == "detector" else sorted({*families.values()} - {""})
            if owner not in _OWNERS and key != "bench" and not _names_owner(document.data, owner):
                into.report(
                    ("variants", index, "when", key),
                    f'nothing of this method belongs to a detector "{owner}".{choices(owner, _OWNERS)}',
                )
                continue
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in known) and (key != "bench" or _close(pattern, known)):
                    sort = part or "bench"
                    problem = f'no {sort} fits "{pattern}", so this never applies.{choices(pattern, known)}'
                    into.report(("variants", index, "when", key), problem)
        if len(into.faults) == before and not _possible(when, families):
            words = " and ".join(f"{key} {', '.join(patterns)}" for key, patterns in when.items())
            into.report(("variants", index, "when"), f"no detector is {words} at once, so this never applies")


def _conditions(document: Document) -> dict[int, dict[str, tuple[str, ...]]]:
    """Index of a variant -> condition -> patterns."""
    variants = document.data.get("variants")
    return {
        index: {str(key): _patterns(wanted) for key, wanted in variant["when"].items()}
        for index, variant in enumerate(variants if isinstance(variants, list) else ())
        if _is_sound(variant)
    }


def _is_sound(variant: Any) -> bool:
    """True for a variant of the right shape; others are at fault already."""
    try:
        Variant.model_validate(variant)
    except ValidationError:
        return False
    return True


def _patterns(wanted: Any) -> tuple[str, ...]:
    return tuple(map(str, wanted)) if isinstance(wanted, (list, tuple)) else (str(wanted),)


def _fits(patterns: Sequence[str] | None, name: str) -> bool:
    return patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns)


def _profiles(
    owner: str, conditions: Mapping[int, Mapping[str, tuple[str, ...]]], families: Families
) -> dict[frozenset[int], list[str]]:
    """Variants that one owner's detector leaves possible -> the detectors that do so."""
    found: dict[frozenset[int], list[str]] = {}
    for detector, family in families.items():
        fitting = frozenset(
            i
            for i, when in conditions.items()
            if _fits(when.get(f"{owner}.detector"), detector) and _fits(when.get(f"{owner}.family"), family)
        )
        found.setdefault(fitting, []).append(detector)
    return found


def _possible(when: Mapping[str, tuple[str, ...]], families: Families) -> bool:
    """True when every owner has a detector that fulfils all of its conditions."""
    owners = {key.partition(".")[0] for key in when if key != "bench"}
    return all(any(0 in fitting for fitting in _profiles(owner, {0: when}, families)) for owner in owners)


def _close(pattern: str, benches: Sequence[str]) -> bool:
    """True for what looks like the name of a bench, or like its beginning, written wrongly."""
    word = pattern.rstrip("*")
    names = benches if word == pattern else {bench[: len(word)] for bench in benches}
    return bool(get_close_matches(word, names, n=1, cutoff=0.75))


def _names_owner(data: Mapping[str, Any], owner: str) -> bool:
    """True when some text of the method speaks of this owner."""
    parts = (part for key, part in data.items() if key != "variants")
    return any(word.startswith((f"{owner}.", f"{owner}@")) for part in parts for word in _texts(part))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)
