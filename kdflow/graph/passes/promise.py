"""What an op gives is what it promises: its declared kinds are compared with the values that it gave for fake inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kdflow.graph.node import Node
from kdflow.kinds import ANY, Kind
from kdflow.operation import Like


def broken_promise(node: Node, result: Any, inputs: Mapping[str, Any]) -> str | None:
    """What does not fit in an op's result, in words; None where all is as declared.

    Args:
        node: An op whose kinds are placed.
        result: Its value for fake inputs.
        inputs: These inputs.
    """
    if node.op is None:
        return None
    if isinstance(node.op.gives, Mapping):
        if not isinstance(result, Mapping) or set(result) != set(node.op.gives):
            given = ", ".join(map(str, result)) if isinstance(result, Mapping) else _words(result)
            return f"it declares the outputs {', '.join(node.op.gives)} and gives {given}"
        found = (_misfit(node.value.outputs.get(name, ANY), value, f'"{name}"') for name, value in result.items())
        return next((problem for problem in found if problem), None)
    return _misfit(node.value.kind, result, "its result") or _other_size(node, result, inputs)


def _misfit(kind: Kind, value: Any, name: str) -> str | None:
    if kind.opaque:
        return None
    if kind.stack is not None:
        if not isinstance(value, (list, tuple)):
            return f"{name} is declared as {kind}, a list over {kind.stack}, and is {_words(value)}"
        return next((problem for entry in value if (problem := _misfit(kind.element(), entry, name))), None)
    if not isinstance(value, Tensor):
        return f"{name} is declared as {kind}, a tensor, and is {_words(value)}"
    if kind.axes is None:
        return None
    if value.dim() != len(kind.axes) or any(a == "one" and value.shape[i] != 1 for i, a in enumerate(kind.axes)):
        return f"{name} is declared as {kind} ({', '.join(kind.axes) or 'one number'}) and is {_words(value)}"
    return None


def _other_size(node: Node, result: Any, inputs: Mapping[str, Any]) -> str | None:
    """A loss is elementwise: where it is like its student, it has the student's sizes as well."""
    gives = node.op.gives if node.op else None
    if not isinstance(gives, Like) or not node.op or not node.op.name.startswith("loss."):
        return None
    source, kind = inputs.get(gives.source), node.value.kind
    if kind.axes is None or gives.swap or gives.dropped(node.options, node.inputs):
        return None
    pairs = [(source, result)] if isinstance(result, Tensor) else list(zip(source or (), result or ()))
    for given, got in pairs:
        if not isinstance(given, Tensor) or not isinstance(got, Tensor):
            continue
        if tuple(given.shape) != tuple(got.shape):
            return f"its result is declared to be like {gives.source}, {_words(given)}, and is {_words(got)}"
    return None


def _words(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor ({', '.join(str(size) for size in value.shape)})" if value.dim() else "one number"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return f"a {type(value).__name__}"
