"""One walk, evaluating: values of any nodes, with the graph cut where values are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdflow.errors import UsageError, choices
from kdflow.graph.node import Graph, Node, Operand, Role


def evaluate(graph: Graph, given: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
    """Values of ``outputs``, computing only what they need beyond ``given``.

    Raises:
        UsageError: For an output the graph does not have, or an input that is needed and not given.
    """
    for name in outputs:
        if name not in graph:
            raise UsageError(f'the plan has no node "{name}".{choices(name, graph.dag)}')
    above = graph.upwards(*outputs, through=lambda node: () if node.name in given or node.prepared else node.operands())
    needed = {node.name for node in above}
    values = dict(given)
    for node in graph.ordered():
        if node.name in needed and node.name not in values:
            values[node.name] = _value(node, values)
    return {name: _scalar(graph[name], values[name]) for name in outputs}


def _value(node: Node, values: Mapping[str, Any]) -> Any:
    def value(operand: Operand) -> Any:
        return values[operand] if isinstance(operand, str) else [values[name] for name in operand]

    if node.role is Role.INPUT:
        if node.given is None:
            raise UsageError(f'the value of "{node.name}" is needed and was not given')
        return node.given
    if node.role in (Role.PICK, Role.SLICE):
        (source,) = node.operands()
        return values[source][node.key]
    inputs = {} if node.prepared else {key: value(operand) for key, operand in node.inputs.items()}
    return node.module(**inputs)


def _scalar(node: Node, value: Any) -> Any:
    """A term's module also says whether anything was judged; callers want the scalar."""
    return value[0] if node.role is Role.TERM and isinstance(value, tuple) else value
