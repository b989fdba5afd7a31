"""HTML and SVG as nested calls; whatever is not marked as :class:`Html` is escaped."""

from __future__ import annotations

from html import escape
from typing import TypeAlias

from kdflow.escape import printable


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Child: TypeAlias = "str | float | list[Html] | tuple[Html, ...] | None"
Value: TypeAlias = "str | float | bool | None"

VOID = frozenset({"meta", "br", "img", "hr", "link"})


def el(name: str, /, *children: Child, **attributes: Value) -> Html:
    """An element.

    Args:
        name: ``div``, ``svg``, ``path`` ...
        children: Text (escaped), numbers, markup, or lists of markup; None is left out.
        attributes: By name: a trailing underscore is dropped (``class_``), others become hyphens (``aria_label``). None and
            False leave the attribute out, True writes it without a value.
    """
    words = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{words}>")
    return Html(f"<{name}{words}>{''.join(map(_child, children))}</{name}>")


def join(*children: Child) -> Html:
    """Children one after the other, without an element around them."""
    return Html("".join(map(_child, children)))


def _attribute(key: str, value: Value) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(_text(value))}"'


def _child(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, (list, tuple)):
        return "".join(child)
    return escape(_text(child))


def _text(value: str | float) -> str:
    """Numbers without digits that nobody sees."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else printable(str(value))
