"""Names and texts of users inside other languages: Markdown, Mermaid, CSV, XML, a terminal."""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def printable(text: str) -> str:
    """``text`` without what moves a cursor, turns a line around or is no character of XML; newlines and tabs stay."""
    return _CONTROLS.sub("\ufffd", text)


def one_line(text: str) -> str:
    """``text`` in one line, without control characters."""
    return printable(" ".join(text.split("\n")).replace("\r", " ").replace("\t", " "))


def markdown(text: str) -> str:
    """``text`` as plain words of one line of Markdown, also inside a table: no markup, no HTML, no link."""
    escaped = re.sub(r"([\\|`\[\]*])", r"\\\1", one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def unmarked(text: str) -> str:
    """The line that :func:`markdown` made ``text`` of."""
    return re.sub(r"\\(.)", r"\1", text.replace("&lt;", "<").replace("&amp;", "&"))


def mermaid(text: str) -> str:
    """``text`` for a quoted label of Mermaid."""
    return re.sub(r"[#\"<>&`\\\[\]{}()|;]", lambda found: f"#{ord(found[0])};", one_line(text))


def csv_cell(value: object) -> object:
    """A cell that no spreadsheet takes for a formula; numbers stay numbers."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text
