"""Parameters of the student that nothing trains, so that training freezes them: no loss of its own, and no term of the method."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kdflow.graph.node import Graph, Node, Role
from kdflow.ports import Detector, PortEntry


def idle_parameters(graph: Graph, terms: Sequence[str], student: Detector | None) -> tuple[str, ...]:
    """Names of the parameters that the student declares as optional and that no distillation term reaches through a port.

    Args:
        graph: Inferred graph.
        terms: Names of the terms that are trained on.
        student: The student, if the plan has one.
    """
    if student is None or not student.optional:
        return ()
    compared = {entry for term in terms if term.startswith("kd/") for entry in _entries(graph, term)}

    def is_reached(entry: PortEntry) -> bool:
        port = student.ports[entry[0]]
        return (port.stage, port.key, entry[1]) in compared

    return tuple(name for name, entries in student.optional.items() if not any(map(is_reached, entries)))


def _entries(graph: Graph, term: str) -> Iterator[tuple[str, str, int]]:
    """Stage, key and index of what a term takes from the student, in calls too; what only masks need does not count."""

    def is_entry(node: Node) -> bool:
        return node.role is Role.PICK or (node.role is Role.SLICE and _source(graph, node).role is Role.PICK)

    def through(node: Node) -> Iterable[str]:
        return () if node.prepared or (node.op and node.op.no_grad) or is_entry(node) else node.operands()

    for node in graph.upwards(term, through=through):
        if is_entry(node) and not node.prepared and not (node.op and node.op.no_grad):
            yield from _taken(node, slice(None)) if node.role is Role.PICK else _taken(_source(graph, node), node.key)


def _source(graph: Graph, part: Node) -> Node:
    return graph[str(part.inputs["stack"])]


def _taken(pick: Node, key: int | slice) -> Iterator[tuple[str, str, int]]:
    """Entries of a port's stack under an index or a slice; a value that is no stack is its entry 0."""
    port = pick.port
    if pick.owner != "student" or port is None:
        return
    taken = range(port.length or 1)[key]
    for index in [taken] if isinstance(taken, int) else taken:
        yield port.stage, port.key, index
