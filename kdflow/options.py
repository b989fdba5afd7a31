"""Options that a file may set, as one schema: of detectors, operations, schedules and data formats alike."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Container, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from kdflow.errors import UsageError, choices

T = TypeVar("T", bound=BaseModel)


class Options(BaseModel):
    """Checked keys and values; unknown keys are refused, values are not changed afterwards.

    A field made by :func:`option` says what it means and, where a library has a keyword for it, which.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    name: typing.ClassVar[str] = ""

    @classmethod
    def title(cls) -> str:
        """What messages call it."""
        return cls.name or cls.__name__

    def keywords(self) -> dict[str, Any]:
        """The library's keywords and their values; a pair of keywords shares out a pair of values."""
        found: dict[str, Any] = {}
        for key, info in type(self).model_fields.items():
            named = (info.json_schema_extra or {}).get("keyword") if isinstance(info.json_schema_extra, dict) else None
            value = getattr(self, key)
            if isinstance(named, list):
                found |= dict(zip(map(str, named), value if isinstance(value, tuple) else [value] * len(named), strict=True))
            elif named:
                found[str(named)] = value
        return found


def option(default: Any, doc: str, keyword: str | tuple[str, ...] = (), **bounds: Any) -> Any:
    """A field of :class:`Options`.

    Args:
        default: Its default; ``...`` for none.
        doc: One sentence for listings.
        keyword: The library's keyword of the same meaning. Several: each takes one entry of a tuple, or all take the value.
        bounds: pydantic's: ``gt``, ``ge``, ``lt``, ``le``, ``min_length``.
    """
    named = {"keyword": list(keyword) if isinstance(keyword, tuple) else keyword} if keyword else None
    return Field(default, description=doc, json_schema_extra=typing.cast(Any, named), **bounds)


def again(model: type[Options], key: str, default: Any, keyword: str | None = None) -> Any:
    """The field of another model with another default, or under another keyword of the library."""
    info: FieldInfo = model.model_fields[key]
    extra = info.json_schema_extra if keyword is None else {"keyword": keyword}
    changed = FieldInfo.merge_field_infos(info, default=default, json_schema_extra=extra)
    changed.annotation = None
    return changed


def from_signature(name: str, source: Callable[..., Any], without: Container[str] = ()) -> type[BaseModel]:
    """The model of a callable's parameters, with its annotations and defaults.

    Args:
        name: What messages call it.
        source: A function, or a class's ``__init__``; ``*args`` and ``**kwargs`` are no options.
        without: Parameters that something else fills in.
    """
    hints = typing.get_type_hints(source, include_extras=True)
    fields: dict[str, Any] = {}
    for key, parameter in inspect.signature(source).parameters.items():
        if key in without or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        fields[key] = (hints[key], ... if parameter.default is inspect.Parameter.empty else parameter.default)
    return create_model(name, __config__=ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False), **fields)


def checked(name: str, model: type[T], options: Mapping[str, Any]) -> T:
    """Options as the model; UsageError lists every unknown key and every wrong value."""
    try:
        return model(**options)
    except ValidationError as error:
        raise UsageError("; ".join(_problem(name, model, dict(e)) for e in error.errors())) from error


def _problem(name: str, model: type[BaseModel], error: dict[str, Any]) -> str:
    """One of pydantic's complaints in our words."""
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f'{name} has no option "{place}".{choices(place, model.model_fields, limit=40)}'
    message = str(error["msg"])
    return f'{name}: option "{place}": {message[:1].lower()}{message[1:]}, got {error["input"]!r}'
