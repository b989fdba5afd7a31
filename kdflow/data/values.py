"""Values as annotation files write them: what is unmistakable is taken, anything else gives None and is shown as written."""

from __future__ import annotations

import json
import math
import re
import unicodedata

LARGEST = 1e15
"""Numbers beyond this are no pixels; taken as not finite, their sums and products cannot overflow."""
_WHOLE = re.compile(r"[+-]?[0-9]{1,19}")
_NUMERAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_NOT_FINITE = re.compile(r"nan|[+-]?inf(inity)?", re.IGNORECASE)
_SHOWN = 80


def whole(value: object) -> int | None:
    """A whole number of 64 bits: ``7``, ``7.0``, ``"7"`` and ``"7.0"``; None for anything else, truth values included."""
    if type(value) is int:
        return value if -(2**63) <= value < 2**63 else None
    if isinstance(value, str):
        value = int(value) if _WHOLE.fullmatch(value.strip()) else number(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    fits = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return value if fits and isinstance(value, int) else None


def number(value: object) -> float | None:
    """A number, NaN where it is not finite or absurdly large: ``7``, ``7.5`` and ``"7.5"``; None for anything else."""
    if type(value) is float and -LARGEST <= value <= LARGEST:
        return value
    if isinstance(value, str):
        text = value.strip()
        if _NOT_FINITE.fullmatch(text):
            return math.nan
        value = float(text) if _NUMERAL.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if -LARGEST <= value <= LARGEST else math.nan


def truth(value: object) -> bool | None:
    """True or false: ``1``, ``1.0``, ``"1"``, ``true`` and ``"true"``, and likewise 0; None for anything else."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    return {0: False, 1: True}.get(-1 if (found := whole(value)) is None else found)


def file_name(value: object) -> str | None:
    """Text that can name a file: not blank, no control characters, no halves of characters; None for anything else."""
    return value if isinstance(value, str) and value.strip() and not unwritable(value) else None


def class_name(value: object) -> str | None:
    """Text that can name a class: not blank, writable as UTF-8; None for anything else."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return None
    return None if any(unicodedata.category(c) == "Cs" for c in value) else value


def unwritable(text: str) -> bool:
    """True for text that one line of a text file, or an XML document, cannot hold."""
    return not text.isprintable() and any(
        unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in "\ufffe\uffff" for c in text
    )


def shown(value: object) -> str:
    """A value as JSON writes it, cut where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, ValueError):
        text = f"({type(value).__name__})"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
