"""Pydantic's complaints, said in the user's words at the user's line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from kdflow.errors import choices, repr_name
from kdflow.spec.bench import SLUG
from kdflow.spec.load import Document, Steps

M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], data: Any, document: Document, at: Steps = ()) -> M | None:
    """An instance of ``model``, or None after recording every fault in the document.

    Args:
        model: What ``data`` must be.
        data: Plain values found at ``at`` in the document.
        document: Receives the faults, with line marks.
        at: Path of ``data`` inside the document.
    """
    try:
        found = model.model_validate(data)
        for place in _truths_as_numbers(data, found):
            document.report((*at, *place), f"{_EXPECTED}a number (got {_shown(_at(data, place))})")
        return found
    except ValidationError as error:
        said: dict[Steps, list[str]] = {}
        for complaint in error.errors():
            if complaint["type"] == "too_short" and complaint.get("input"):
                continue  # its entries are at fault, and that is said
            place, problem = _say(model, complaint)
            said.setdefault((*at, *place), []).append(problem)
        for place, problems in said.items():
            for problem in _joined(problems):
                alike = None if problem.startswith("unknown key") else _misspelt(model, data, place[len(at) :], at)
                document.report(alike or place, problem)
        return None


def _misspelt(model: type[BaseModel], data: Any, place: Steps, at: Steps) -> Steps | None:
    """The key of an entry that is most likely meant for one of the model's own: where "op is missing" is best said."""
    try:
        entry = _at(data, place)
    except (KeyError, IndexError, TypeError):
        return None
    fields = _fields_at(model, place)
    for key in entry if isinstance(entry, dict) and fields else ():
        if isinstance(key, str) and key not in fields and difflib.get_close_matches(key, fields, n=1, cutoff=0.75):
            return (*at, *place, key)
    return None


def _truths_as_numbers(data: Any, found: Any) -> Iterator[Steps]:
    """Places where true or false was written and taken for 1 or 0."""
    if isinstance(data, bool):
        if isinstance(found, (int, float)) and not isinstance(found, bool):
            yield ()
        return
    pairs: list[tuple[Any, Any, Any]] = []
    if isinstance(data, Mapping) and isinstance(found, BaseModel):
        names = {info.alias or name: name for name, info in type(found).model_fields.items()}
        pairs = [(key, value, getattr(found, names[key])) for key, value in data.items() if key in names]
    elif isinstance(data, Mapping) and isinstance(found, Mapping):
        pairs = [(key, value, found[key]) for key, value in data.items() if key in found]
    elif isinstance(data, (list, tuple)) and isinstance(found, (list, tuple)) and len(data) == len(found):
        pairs = list(zip(range(len(data)), data, found))
    for key, value, seen in pairs:
        for place in _truths_as_numbers(value, seen):
            yield (key, *place)


def _at(data: Any, place: Steps) -> Any:
    for step in place:
        data = data[step]
    return data


def _joined(problems: list[str]) -> list[str]:
    """What the branches of a union expect, as one sentence: ``expected a word or a list``."""
    wanted = list(dict.fromkeys(p.removeprefix(_EXPECTED) for p in problems if p.startswith(_EXPECTED)))
    others = [p for p in dict.fromkeys(problems) if not p.startswith(_EXPECTED)]
    if not wanted:
        return others
    alternatives = [w.partition(" (got ")[0] for w in wanted[:-1]]
    return [*others, _EXPECTED + " or ".join([*alternatives, wanted[-1]])]


_EXPECTED = "expected "
_TYPES = {
    "tuple_type": "a list",
    "list_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "too_short": "at least one entry",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "a word",
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("of at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("of at most", "le"),
}


def _say(model: type[BaseModel], complaint: Any) -> tuple[Steps, str]:
    place: Steps = tuple(complaint["loc"])
    kind, value = complaint["type"], complaint.get("input")
    if kind == "extra_forbidden":
        known = _fields_at(model, place[:-1])
        return (*_written(place[:-1]), place[-1]), f'unknown key "{place[-1]}".{choices(str(place[-1]), known)}'
    if kind == "missing":
        return _written(place[:-1]), f'the key "{place[-1]}" is missing'
    place = _written(place)
    shown = f" (got {_shown(value)})" if isinstance(value, (str, int, float, bool)) or value is None else ""
    if (wanted := _wanted(kind, complaint.get("ctx", {}))) is not None:
        return place, f"{_EXPECTED}{wanted}{shown}{_close(kind, value, wanted)}"
    message = complaint["msg"].removeprefix("Value error, ")
    return place, message[0].lower() + message[1:] + shown


def _wanted(kind: str, facts: Any) -> str | None:
    """What pydantic expected, in the words of a spec; None for complaints that speak for themselves."""
    if kind in _BOUNDS:
        word, key = _BOUNDS[kind]
        return f"a number {word} {facts[key]:g}"
    if kind == "literal_error":
        return str(facts["expected"]).replace("'", '"')
    if kind == "string_pattern_mismatch" and facts["pattern"] == SLUG:
        return "a name of small letters, digits and dashes"
    if kind == "string_too_long":
        return f"at most {facts['max_length']} letters"
    if kind == "string_pattern_mismatch":
        return f"text of the form {facts['pattern']}"
    return _TYPES.get(kind)


def _shown(value: Any) -> str:
    """A value as written in YAML."""
    if isinstance(value, str):
        return repr_name(value)
    words = {True: "true", False: "false", None: "nothing"}
    return words[value] if isinstance(value, bool) or value is None else repr(value)


def _close(kind: str, value: Any, wanted: str) -> str:
    close = (
        difflib.get_close_matches(str(value), re.findall(r'"([^"]+)"', wanted), n=1) if kind == "literal_error" else []
    )
    return f". Did you mean {repr_name(close[0])}?" if close else ""


def _written(place: Steps) -> Steps:
    """The keys of the document in a place of pydantic's."""
    return tuple(step for step in place if not _is_branch(step))


def _is_branch(step: str | int) -> bool:
    """True for pydantic's own labels of union branches, which are no keys of the document."""
    return isinstance(step, str) and (
        step in {"float", "str", "int", "bool", "dict[str,any]"}
        or step.startswith(("tuple[", "literal[", "constrained-"))
    )


def _fields_at(model: type[BaseModel], place: Steps) -> set[str]:
    """Keys that exist at ``place`` inside ``model``."""
    current: Any = model
    for step in place:
        fields = getattr(current, "model_fields", {})
        if step in fields:
            current = _inner(fields[step].annotation)
    return {info.alias or name for name, info in getattr(current, "model_fields", {}).items()}


def _inner(annotation: Any) -> Any:
    """The model inside ``dict[str, M]``, ``tuple[M, ...]`` or ``M | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _inner(arg)) is not None), None)
