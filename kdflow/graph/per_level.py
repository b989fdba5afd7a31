"""Numbers per level: a list where an op takes one number holds one for each entry of the stack that the op is mapped over."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from kdflow.spec.faults import validate
from kdflow.spec.load import Document, Steps


class PerLevel(tuple[Any, ...]):
    """An option's value for each entry of a stack."""

    __slots__ = ()


def checked_options(model: type[BaseModel], given: Mapping[str, Any], document: Document, path: Steps) -> dict[str, Any] | None:
    """An op's options with their defaults, lists of numbers as :class:`PerLevel`; None after recording what is wrong.

    Args:
        model: The op's options.
        given: What the entry writes.
        document: Receives the faults.
        path: The entry.
    """
    listed = {key: value for key, value in given.items() if isinstance(value, list) and value and takes_one_number(model, key)}
    lengths = {len(value) for value in listed.values()}
    if len(lengths) > 1:
        words = " and ".join(f"{len(value)} for {key}" for key, value in listed.items())
        document.report((*path, next(iter(listed))), f"the lists of numbers differ in length: {words}; give one per level")
        return None
    found = []
    for level in range(max(lengths, default=1)):
        options = validate(model, {**given, **{key: value[level] for key, value in listed.items()}}, document, path)
        if options is None:
            return None
        found.append(options)
    return {
        key: PerLevel(getattr(options, key) for options in found) if key in listed else getattr(found[0], key)
        for key in model.model_fields
    }


def takes_one_number(model: type[BaseModel], key: str) -> bool:
    """True for an option that is a number and takes no list itself."""
    field = model.model_fields.get(key)
    types = set(_types(field.annotation)) if field else set()
    return bool(types & {int, float}) and not types & {list, tuple, set}


def at_level(options: Mapping[str, Any], level: int) -> dict[str, Any]:
    """The options of one entry of the stack."""
    return {key: value[level] if isinstance(value, PerLevel) else value for key, value in options.items()}


def lengths_of(options: Mapping[str, Any]) -> dict[str, int]:
    """How many entries the options speak of that are given per level."""
    return {key: len(value) for key, value in options.items() if isinstance(value, PerLevel)}


def _types(annotation: Any) -> Iterable[Any]:
    origin = typing.get_origin(annotation)
    if origin in (list, tuple, set):
        return [origin]
    arguments = typing.get_args(annotation)
    return [found for part in arguments for found in _types(part)] if arguments else [annotation]
