"""Arithmetic written as text: read by Python's parser, and computed here node by node; nothing is evaluated as code."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from kdflow.functional.reduce import safe_root

NAMES = ("a", "b", "c", "d")


def _divide(above: Tensor, below: Tensor) -> Tensor:
    empty = below == 0
    return torch.where(empty, 0.0, above / torch.where(empty, 1.0, below))


FUNCTIONS: Mapping[str, tuple[int, Callable[..., Tensor]]] = {
    "abs": (1, torch.abs),
    "sqrt": (1, safe_root),
    "exp": (1, torch.exp),
    "log": (1, torch.log),
    "min": (2, torch.minimum),
    "max": (2, torch.maximum),
}
OPERATORS: Mapping[type[ast.operator], Callable[[Tensor, Tensor], Tensor]] = {
    ast.Add: torch.add,
    ast.Sub: torch.sub,
    ast.Mult: torch.mul,
    ast.Div: _divide,
    ast.Pow: torch.pow,
}
LONGEST = 200


def checked(text: str) -> str:
    """The formula as it is; ValueError, in words, where it is none."""
    parse(text)
    return text


def parse(text: str) -> ast.expr:
    """The tree of a formula of a, b, c and d, numbers, ``+ - * / **``, and the functions; ValueError where it is none."""
    if len(text) > LONGEST:
        raise ValueError(f"a formula has at most {LONGEST} characters, this one has {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f'"{text}" is no formula; write one such as "abs(a - b) ** 2"') from None
    _check(tree, text)
    return tree


def names_in(text: str) -> set[str]:
    """Which of a, b, c and d a formula uses."""
    return {node.id for node in ast.walk(parse(text)) if isinstance(node, ast.Name)} & set(NAMES)


def compute(text: str, values: Mapping[str, Tensor]) -> Tensor:
    """The value of a formula; ``x / 0`` is 0.

    Args:
        text: As :func:`parse` takes it.
        values: Tensors of a, b, c and d, of shapes that broadcast.
    """
    like = next(iter(values.values()))
    return _value(parse(text), values, like)


def _check(node: ast.expr, text: str) -> None:
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        parts: list[ast.expr] = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        parts = [node.operand]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        parts = list(node.args)
        count = FUNCTIONS.get(node.func.id, (None, None))[0]
        if count is None:
            raise ValueError(f'"{text}" calls "{node.func.id}"; known are {", ".join(FUNCTIONS)}')
        if count != len(parts):
            raise ValueError(f'"{text}": {node.func.id} takes {count} value{"s" * (count > 1)}, not {len(parts)}')
    elif isinstance(node, ast.Name):
        if node.id not in NAMES:
            raise ValueError(f'"{text}" names "{node.id}"; the values are called {", ".join(NAMES)}')
        parts = []
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        parts = []
    else:
        raise ValueError(f'"{text}" is more than arithmetic: only values, numbers, + - * / ** and {", ".join(FUNCTIONS)}')
    for part in parts:
        _check(part, text)


def _value(node: Any, values: Mapping[str, Tensor], like: Tensor) -> Tensor:
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](_value(node.left, values, like), _value(node.right, values, like))
    if isinstance(node, ast.UnaryOp):
        inner = _value(node.operand, values, like)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.Call):
        function: Any = node.func
        return FUNCTIONS[function.id][1](*(_value(argument, values, like) for argument in node.args))
    if isinstance(node, ast.Name):
        return values[node.id]
    return like.new_tensor(float(node.value))
