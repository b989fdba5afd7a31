"""Lower a graph to ``torch.fx``: one module whose generated code reads like the step a person would write."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from kdflow.graph.node import Graph, Node, Operand, Role


def lower(graph: Graph, outputs: Sequence[str], inputs: Sequence[str]) -> fx.GraphModule:
    """A module called with the values of ``inputs`` in order; returns a dict of the values of ``outputs``.

    Args:
        graph: Inferred graph; every stage, op and term has its module.
        outputs: Node names.
        inputs: Names of all input nodes, in the order of the arguments; inputs the graph does not have are accepted and unused.
    """
    traced, root, env = fx.Graph(), nn.Module(), dict[str, fx.Node]()
    for name in inputs:
        env[name] = traced.placeholder(python_name(name))
    for node in graph.ordered():
        if node.role is not Role.INPUT:
            env[node.name] = _emit(traced, root, node, env, graph)
    traced.output({name: env[name] for name in outputs})
    traced.lint()
    return fx.GraphModule(root, traced, class_name="Plan")


def _emit(traced: fx.Graph, root: nn.Module, node: Node, env: dict[str, fx.Node], graph: Graph) -> fx.Node:
    def value(operand: Operand) -> Any:
        return env[operand] if isinstance(operand, str) else [env[name] for name in operand]

    if node.role in (Role.PICK, Role.SLICE):
        (source,) = node.operands()
        made = traced.call_function(operator.getitem, (env[source], node.key))
    else:
        target = python_name(node.name)
        if hasattr(root, target):  # a node may be called like a method of nn.Module, such as half
            target += "_"
        root.add_module(target, node.module)
        inputs = {key: value(operand) for key, operand in node.inputs.items()}
        if node.run and node.run.selective:
            inputs["wanted"] = graph.taken(node.name)
        made = traced.call_module(target, (), inputs)
    made._rename(python_name(node.name))
    return made


def python_name(name: str) -> str:
    """A node name as a Python identifier: ``kd/neck`` -> ``kd_neck``."""
    word = re.sub(r"\W+", "_", name).strip("_")
    return f"_{word}" if word[:1].isdigit() else word
