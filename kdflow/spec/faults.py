"""Pydantic's complaints, said in the user's words at the user's line."""

from __future__ import annotations

from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from kdflow.errors import choices
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
        return model.model_validate(data)
    except ValidationError as error:
        for complaint in error.errors():
            place, problem = _say(model, complaint)
            document.report((*at, *place), problem)
        return None


def _say(model: type[BaseModel], complaint: Any) -> tuple[Steps, str]:
    place: Steps = tuple(complaint["loc"])
    kind, value = complaint["type"], complaint.get("input")
    if kind == "extra_forbidden":
        known = _fields_at(model, place[:-1])
        return place, f'unknown key "{place[-1]}".{choices(str(place[-1]), known)}'
    if kind == "missing":
        return place[:-1], f'the key "{place[-1]}" is missing'
    place = tuple(step for step in place if not _is_branch(step))
    message = complaint["msg"].removeprefix("Value error, ")
    shown = f" (got {value!r})" if isinstance(value, (str, int, float, bool)) or value is None else ""
    return place, message[0].lower() + message[1:] + shown


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
