"""Faults of a method file as written: where its variants and search ranges lead to."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdflow.errors import Fault, choices
from kdflow.spec.constants import report_unused
from kdflow.spec.faults import validate
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import Method
from kdflow.spec.paths import BENCH_PATHS, FIXED, exists, set_path, steps_of
from kdflow.spec.salvage import GROUPS, salvage
from kdflow.spec.schedule import read_schedule

if TYPE_CHECKING:
    from kdflow.spec.resolve import MethodSpec

_WHEN = re.compile(r"^(bench|[a-z_]\w*\.(family|detector))$")


def faults_of(spec: MethodSpec) -> list[Fault]:
    """The faults of the file as written: its shape, and where its variants and search ranges lead to."""
    found = spec.applied((), must_fit=True)
    method, _ = salvage(found)
    for index in range(len(spec.variants)):
        spec.check_variant(index, found)
    _check_search(spec.document, found, method)
    report_unused(spec.document, found)
    if not found.faults:
        _check_ranges(spec, found)
    return found.faults


def check_variant(document: Document, found: Document, index: int, variant: dict[str, Any]) -> None:
    """Conditions that are none, and paths that lead nowhere; the faults go into ``found``."""
    when, drop, changes = variant.get("when"), variant.get("drop"), variant.get("set")
    for key in when if isinstance(when, dict) else ():
        if not _WHEN.match(str(key)):
            found.report(
                ("variants", index, "when", key),
                f'unknown condition "{key}"; write bench, OWNER.family or OWNER.detector',
            )
    for position, path in enumerate(drop if isinstance(drop, list) else ()):
        place = ("variants", index, "drop", position)
        steps = steps_of(str(path))
        if not exists(document.data, steps):
            group = document.data.get(str(steps[0]))
            known = [f"{steps[0]}.{name}" for name in group] if isinstance(group, dict) else sorted(Method.model_fields)
            found.report(place, f'nothing is called "{path}".{choices(str(path), known)}')
        elif steps[0] in FIXED:
            found.report(place, f'"{path}" cannot be dropped: {FIXED[str(steps[0])]}')
    for path in changes if isinstance(changes, dict) else ():
        _check_path(document, found, str(path), ("variants", index, "set", path), "variants")


def _check_search(document: Document, found: Document, method: Method | None) -> None:
    """Paths of ``search`` lead to something that the file, one of its variants or a rule declares."""
    search = document.data.get("search")
    if document.data.get("metric") and not search:
        found.report(("metric",), "metric has no effect without search:, whose trials it judges")
    for path in search if isinstance(search, dict) else ():
        steps = steps_of(str(path))
        if len(steps) < 2 or steps[1] not in getattr(method, str(steps[0]), ()):
            _check_path(document, found, str(path), ("search", path), "search")


def _check_ranges(spec: MethodSpec, found: Document) -> None:
    """Both ends of a search range, and all choices, are values that the path takes."""
    search = found.data.get("search")
    for path, entry in search.items() if isinstance(search, dict) else ():
        steps = steps_of(path)
        if path.startswith(BENCH_PATHS) or not (exists(found.data, steps[:2]) or steps[0] == "schedule"):
            continue
        told: set[str] = set()
        ends = [((end,), entry[end]) for end in ("low", "high") if entry.get(end) is not None]
        for part, value in [*ends, *((("choices", number), choice) for number, choice in enumerate(entry.get("choices", ())))]:
            trial = _with_value(spec, found, steps, value)
            validate(Method, trial.data, trial)
            _check_schedule(trial, steps)
            if trial.faults and (problem := trial.faults[0].problem) not in told:  # a wrong key is wrong for all values
                told.add(problem)
                found.report(("search", path, *part), f"{value} is no value of {path}: {problem}")


def _check_schedule(document: Document, steps: Steps) -> None:
    """The schedule that a path leads into, whose options the method's model leaves open."""
    if "schedule" in steps:
        place = steps[: steps.index("schedule") + 1]
        holder: Any = document.data
        for step in place:
            holder = holder[step]
        read_schedule(holder, document, place)


def _with_value(spec: MethodSpec, found: Document, steps: Steps, value: Any) -> Document:
    """The method with one value changed; a constant changes all places that it stands in."""
    if steps[0] == "constants":
        return spec.applied((), {steps: value})
    trial = Document(found.file, copy.deepcopy(found.data))
    set_path(trial, steps, value, create=True)
    return trial


def _check_path(document: Document, found: Document, path: str, place: Steps, purpose: str) -> None:
    """Report a path whose group does not exist or is fixed, or that goes into an entry that nothing declares."""
    if purpose == "search" and path.startswith(BENCH_PATHS):
        return
    steps, groups = steps_of(path), sorted(Method.model_fields)
    if steps[0] not in groups:
        found.report(place, f'nothing is called "{path}".{choices(str(steps[0]), groups)}')
    elif steps[0] in FIXED:
        found.report(place, f'"{path}" cannot be changed here: {FIXED[str(steps[0])]}')
    elif _leads_into_entry(steps, purpose) and steps[1] not in (known := declared(document.data, str(steps[0]))):
        known.discard(str(steps[1]))
        if not str(steps[1]).startswith("det."):
            found.report(place, f'nothing is called "{path}".{choices(str(steps[1]), known)}')


def _leads_into_entry(steps: Steps, purpose: str) -> bool:
    """True for paths whose second key must be declared: a constant, an entry that is searched, or one that the rest goes into."""
    shortest = 1 if steps[0] == "constants" or purpose == "search" else 2
    return len(steps) > shortest and steps[0] in (*GROUPS, "constants")


def declared(data: Mapping[str, Any], group: str) -> set[str]:
    """Names of a group's entries, those that variants add included."""
    entries = data.get(group)
    names = set(entries) if isinstance(entries, dict) else set()
    if group == "constants":  # a variant changes them, and adds none
        return names
    for variant in data.get("variants") or ():
        changes = variant.get("set") if isinstance(variant, dict) else None
        for path in changes if isinstance(changes, dict) else ():
            steps = steps_of(str(path))
            if steps[0] == group and len(steps) == 2:
                names.add(str(steps[1]))
    return names
