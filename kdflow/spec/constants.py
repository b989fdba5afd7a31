"""Numbers that several places share, and arithmetic where a number stands: ``constants: {mu: 0.8}``, ``weight: 1 - mu``."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kdflow.errors import choices
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import DIVISORS

Number = int | float
_FILLED = ("modules", "prepare", "nodes", "terms", "schedule", "phases")
"""Keys of a method below which arithmetic is read."""
_TEXTS = ("op", "loss", "call", "module", "copy", "value", "like", "at", "factors", "rows")
"""Keys whose texts are names, never numbers."""
_NAME = re.compile(r"[A-Za-z_]\w*")
_WORD = re.compile(r"(?<![\w.@])[A-Za-z_]\w*")
_ARITHMETIC = re.compile(r"[\w\s.+*/()-]+")
_IN_FORMULAS = ("a", "b", "c", "d", "abs", "sqrt", "exp", "log", "min", "max")
_LONGEST = 200
_OPERATORS: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def fill_constants(document: Document) -> None:
    """Put numbers where the method writes constants or arithmetic; what cannot be computed is a fault of the document."""
    constants = _numbers(document.data)
    for name in constants:
        _check_name(document, name)
    taken = {name for group in ("modules", "prepare", "nodes") for name in _entries(document.data, group)}
    for key in _FILLED:
        if key in document.data:
            document.data[key] = _filled(document.data[key], (key,), document, constants, taken)


def report_unused(document: Document, into: Document) -> None:
    """Report constants that no place of the file names, its variants included."""
    used = {word for key in (*_FILLED, "variants", "rewrite") for word in _words(document.data.get(key))}
    for name in _entries(document.data, "constants"):
        if name not in used:
            into.report(("constants", name), "nothing uses this constant; remove it, or write it where its number stands")


def _numbers(data: Mapping[str, Any]) -> dict[str, Number]:
    """The constants; one that is no number is at fault already, and 1 wherever it stands, so that nothing else is said of it."""
    constants = _entries(data, "constants").items()
    return {name: value if isinstance(value, (int, float)) and not isinstance(value, bool) else 1 for name, value in constants}


def _entries(data: Mapping[str, Any], group: str) -> dict[str, Any]:
    entries = data.get(group)
    return entries if isinstance(entries, dict) else {}


def _check_name(document: Document, name: str) -> None:
    place = ("constants", name)
    if not _NAME.fullmatch(name):
        document.report(place, f'"{name}" is no name of a constant; use letters, digits and _, and begin with a letter')
    elif name in DIVISORS or name in _IN_FORMULAS:
        document.report(place, f'"{name}" means something else in over: or in a formula; choose another name')
    for group in ("modules", "prepare", "nodes"):
        if name in _entries(document.data, group):
            document.report(place, f'"{name}" is the name of an entry of {group}: as well; choose another')


def _filled(value: Any, path: Steps, document: Document, constants: Mapping[str, Number], taken: set[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: inner if key in _TEXTS else _filled(inner, (*path, key), document, constants, taken)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_filled(inner, (*path, i), document, constants, taken) for i, inner in enumerate(value)]
    if not isinstance(value, str) or value in taken:
        return value
    if path[-1] == "formula":
        return _WORD.sub(lambda found: f"({constants[found[0]]!r})" if found[0] in constants else found[0], value)
    tree = _parsed(value)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} if tree is not None else set()
    if tree is None or not (names & set(constants) or (not names and not isinstance(tree, ast.Constant))):
        return value
    if unknown := sorted(names - set(constants)):
        document.report(path, f'"{value}": no constant "{unknown[0]}".{choices(unknown[0], constants)}')
        return 1
    return _computed(value, tree, path, document, constants)


def _parsed(text: str) -> ast.expr | None:
    """The tree of a text of numbers, names, ``+ - * /`` and brackets; None where it is anything else."""
    if len(text) > _LONGEST or not _ARITHMETIC.fullmatch(text):
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if _is_arithmetic(tree) else None


def _is_arithmetic(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return type(node.op) in _OPERATORS and _is_arithmetic(node.left) and _is_arithmetic(node.right)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, (ast.USub, ast.UAdd)) and _is_arithmetic(node.operand)
    return isinstance(node, ast.Name) or (isinstance(node, ast.Constant) and type(node.value) in (int, float))


def _computed(text: str, tree: ast.expr, path: Steps, document: Document, constants: Mapping[str, Number]) -> Number:
    """The number; 1 after recording that there is none, so that nothing else is said of this place."""
    try:
        number = _value(tree, constants)
        if math.isfinite(number):
            return number
    except (ZeroDivisionError, OverflowError):
        pass
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    values = ", ".join(f"{name} is {constants[name]}" for name in sorted(used))
    document.report(path, f'"{text}" is no finite number{f" where {values}" if values else ""}')
    return 1


def _value(node: ast.expr, constants: Mapping[str, Number]) -> Number:
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left, constants), _value(node.right, constants))
    if isinstance(node, ast.UnaryOp):
        inner = _value(node.operand, constants)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.Name):
        return constants[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    raise AssertionError(ast.dump(node))


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _WORD.findall(value)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _words(inner)
