"""Checks a detector's options against the signature of its builder: one message lists everything that is wrong."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from kdflow.errors import UsageError, choices

T = TypeVar("T")


def typed_options(name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorator for a builder ``build(classes, *, option=default, ...)``: values are checked and converted by annotation.

    Lists become tuples where the builder wants tuples. Raises UsageError naming every unknown option and every wrong value.

    Args:
        name: Name of the detector, used in messages.
    """

    def decorate(build: Callable[..., T]) -> Callable[..., T]:
        model = _model(name, build)

        @functools.wraps(build)
        def checked(classes: Any, **options: Any) -> T:
            return build(**_values(name, model, {"classes": tuple(classes), **options}))

        return checked

    return decorate


def _model(name: str, build: Callable[..., Any]) -> type[BaseModel]:
    """Pydantic model of a builder's parameters."""
    hints = typing.get_type_hints(build)
    fields: dict[str, Any] = {}
    for key, parameter in inspect.signature(build).parameters.items():
        fields[key] = (hints[key], ... if parameter.default is inspect.Parameter.empty else parameter.default)
    return create_model(name, __config__=ConfigDict(extra="forbid", frozen=True), **fields)


def _values(name: str, model: type[BaseModel], options: dict[str, Any]) -> dict[str, Any]:
    classes = options["classes"]
    if not classes or len(set(classes)) != len(classes):
        raise UsageError(
            f"{name}: classes must be distinct names, at least one; got {', '.join(map(str, classes)) or 'none'}"
        )
    try:
        checked = model(**options)
    except ValidationError as error:
        raise UsageError("; ".join(_problem(name, model, dict(e)) for e in error.errors())) from error
    return {key: getattr(checked, key) for key in model.model_fields}


def _problem(name: str, model: type[BaseModel], error: dict[str, Any]) -> str:
    """One of pydantic's complaints in our words."""
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f'{name} has no option "{place}".{choices(place, [f for f in model.model_fields if f != "classes"], limit=40)}'
    message = str(error["msg"])
    return f'{name}: option "{place}": {message[:1].lower()}{message[1:]}, got {error["input"]!r}'
