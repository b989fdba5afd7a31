"""Prune: stages and nodes that no term needs do not run, and nobody has to say so."""

from __future__ import annotations

from collections.abc import Iterable

from kdflow.graph.node import Graph, Role
from kdflow.spec.load import Document
from kdflow.spec.method import Method


def prune(graph: Graph, outputs: Iterable[str]) -> Graph:
    """The part of the graph that the outputs need in a training step."""
    wanted = set(outputs)
    for name in list(wanted):
        wanted |= graph.upstream(name)
    return graph.keep(wanted)


def report_unused(graph: Graph, method: Method, document: Document) -> None:
    """A declared node that no term uses is a mistake, not a decoration."""
    terms = [node.name for node in graph.of_role(Role.TERM)]
    used: set[str] = set()
    for term in terms:
        used |= graph.upstream(term)
    observed = {o for node in graph.ordered() if node.prepared for o in node.operands()}
    for name in list(observed):
        used |= graph.upstream(name) | {name}
    for name, entry in method.nodes.items():
        prefix = f"{name}:" if entry.call else f"{name}."
        if name not in used and not any(u.startswith(prefix) for u in used):
            document.report(("nodes", name), "no term uses this node; remove it, or name it in a term")
    called = {entry.module for entry in method.nodes.values() if entry.module}
    for name in method.modules:
        if name not in called:
            document.report(("modules", name), "no node uses this module; remove it, or apply it with module:")
