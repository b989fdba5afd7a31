"""Nodes as they are declared, each once; what they read may be declared later. Linking them gives the graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import networkx as nx

from kdflow.graph.node import Graph, Node

Circle = tuple[str, ...]
"""Names of nodes of which each reads the next, and the last the first."""


class Declared:
    """Nodes by name."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}

    def add(self, node: Node) -> str:
        """Declare a node; returns its name."""
        if node.name in self._nodes:
            raise ValueError(f'there is a node "{node.name}" already')
        self._nodes[node.name] = node
        return node.name

    def __getitem__(self, name: str) -> Node:
        return self._nodes[name]

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def linked(self, first: Sequence[str]) -> tuple[Graph, list[Circle]]:
        """The graph of all nodes whose inputs exist, and the circles, whose nodes are left out with all that need them.

        Args:
            first: Names in the order of the file. The graph has each of them behind what it needs, then whatever remains.
        """
        needs: nx.DiGraph[str] = nx.DiGraph()
        needs.add_nodes_from([*(name for name in first if name in self), *self._nodes])
        needs.add_edges_from((node.name, operand) for node in self._nodes.values() for operand in node.operands())
        missing = [name for name in needs if name not in self]
        circles = _cut(needs)
        _leave_out(needs, [*missing, *(circle[-1] for circle in circles)])
        graph = Graph()
        for name in nx.dfs_postorder_nodes(needs):
            graph.add(self[name])
        return graph, circles


def _cut(needs: nx.DiGraph[str]) -> list[Circle]:
    """Remove the last edge of every circle, and return them."""
    found: list[Circle] = []
    while True:
        try:
            edges = nx.find_cycle(needs)
        except nx.NetworkXNoCycle:
            return found
        needs.remove_edge(*edges[-1])
        found.append(tuple(edge[0] for edge in edges))


def _leave_out(needs: nx.DiGraph[str], names: Iterable[str]) -> None:
    """Remove these nodes and all that need one of them."""
    for name in names:
        if name in needs:
            needs.remove_nodes_from([*nx.ancestors(needs, name), name])
