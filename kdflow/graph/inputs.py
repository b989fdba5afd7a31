"""What comes into a graph from outside: values of the batch, and values that stand for ports or nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdflow.graph.calls import Calls
from kdflow.graph.declared import Declared
from kdflow.graph.node import Node, Role, Value
from kdflow.graph.sides import SIDES
from kdflow.kinds import ANY, Kind
from kdflow.operation import OPS, Op
from kdflow.ports import BATCH_PORTS, Detector, Port
from kdflow.spec.method import Method
from kdflow.standard_ports import standard_of


class Inputs:
    """Declares the inputs of a graph, each when it is first read.

    Args:
        nodes: Receives them.
        method: Whose nodes given values stand for.
        detectors: Owner -> detector, whose ports they stand for.
        calls: Knows what a call's outputs are.
        given: Reference -> value.
        kinds: Reference -> kind of a given value, where it is said.
    """

    def __init__(
        self,
        nodes: Declared,
        method: Method,
        detectors: Mapping[str, Detector],
        calls: Calls,
        given: Mapping[str, Any],
        kinds: Mapping[str, Kind],
    ) -> None:
        self.nodes, self.method, self.detectors = nodes, method, detectors
        self.calls, self.given, self.kinds = calls, given, kinds

    def node(self, text: str) -> str:
        """The node of a given value or of a value of the batch."""
        if text in self.nodes:
            return text
        return self._given(text) if text in self.given else self.nodes.add(_input(text, Value(BATCH_PORTS[text])))

    def _given(self, text: str) -> str:
        port = self._port(text)
        value = Value(port.kind if port else ANY, strides=port.strides if port else (), form=port.form if port else "")
        if port is None and text in BATCH_PORTS:
            value.kind = BATCH_PORTS[text]
        value.kind = self.kinds.get(text, value.kind)
        owner = text.split(".")[0]
        node = _input(text, value)
        node.port, node.owner, node.given = port, owner if owner in self.detectors else "", self.given[text]
        return self.nodes.add(node)

    def _port(self, text: str) -> Port | None:
        """What a given value stands for: a port of an owner, an output of a call, or a node's result."""
        base, _, rest = text.partition(".")
        if base in self.detectors:
            return self.detectors[base].ports.get(rest)
        if self.calls.parts.declared(base):
            return Port(rest).within(self.calls.parts.family_of(base)) if standard_of(rest) else None
        call = self.method.nodes[base].call if base in self.method.nodes else None
        if call is not None:
            return self.calls.given_output(call, rest)
        entry = self.method.nodes.get(base) or self.method.prepare.get(base)
        if entry is None or entry.op is None or entry.op not in OPS:
            return None
        op = OPS.get(entry.op)
        first, _, behind = rest.partition(".")
        kind = _declared_kind(op, behind if first in SIDES and not _gives(op, first) else rest)
        return Port(rest, kind, node=None) if kind else None


def _input(name: str, value: Value) -> Node:
    return Node(name, Role.INPUT, value=value)


def _gives(op: Op, output: str) -> bool:
    return isinstance(op.gives, Mapping) and output in op.gives


def _declared_kind(op: Op, output: str) -> Kind | None:
    gives = op.gives.get(output) if isinstance(op.gives, Mapping) else op.gives
    return gives if isinstance(gives, Kind) else None
