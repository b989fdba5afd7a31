"""Merge equal nodes: what is computed twice from the same inputs is computed once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdflow.graph.node import Graph, Node, Operand, Role, show_key


def merge_equal(graph: Graph) -> Graph:
    """A graph without duplicates. Stochastic nodes and ops with weights of their own stay apart."""
    result, renamed, first = Graph(), dict[str, str](), dict[Any, str]()
    for node in graph.ordered():
        node.inputs = {key: renamed_operand(operand, renamed) for key, operand in node.inputs.items()}
        key = None if node.stochastic else identity(node)
        if key is not None and key in first:
            renamed[node.name] = first[key]
            continue
        result.add(node)
        if key is not None:
            first[key] = node.name
    return result


def renamed_operand(operand: Operand, renamed: Mapping[str, str]) -> Operand:
    """An operand under new names; names that are not in ``renamed`` stay."""
    if isinstance(operand, str):
        return renamed.get(operand, operand)
    return tuple(renamed.get(name, name) for name in operand)


def identity(node: Node) -> Any:
    """What makes two nodes equal, apart from what they draw; None for nodes that never merge."""
    if node.prepared or node.role in (Role.INPUT, Role.TERM):
        return None
    options = repr(sorted((k, repr(v)) for k, v in node.options.items()))
    inputs = tuple(sorted(node.inputs.items()))
    if node.role is Role.OP and node.op is not None:
        return (node.op.name, node.weights if node.op.is_module else "", options, inputs)
    if node.role is Role.STAGE:
        return (node.owner, node.stage, node.weights, options, inputs)
    return (node.role, show_key(node.key), inputs)
