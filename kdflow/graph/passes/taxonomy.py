"""Place the terms: a term belongs to the taxonomy node of the student tensor it compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdflow.errors import choices
from kdflow.graph.node import Graph, Node, Role
from kdflow.kinds import Kind
from kdflow.ports import Port
from kdflow.spec.load import Document
from kdflow.taxonomy import load_tree

_FEATURE_AXES = {"c"}


def place_terms(graph: Graph, document: Document, learning: Sequence[str] = ()) -> Graph:
    """Give every distillation term its taxonomy nodes; a declared node that contradicts the taps is a fault.

    Args:
        graph: Inferred graph.
        document: Receives the faults.
        learning: Teachers that some phase trains; a term may be for them alone.
    """
    tree = load_tree()
    for node in graph.of_role(Role.TERM):
        if node.term is None or not node.name.startswith("kd/"):
            continue
        inferred = _inferred(graph, node)
        declared = () if node.term.at is None else (node.term.at,) if isinstance(node.term.at, str) else node.term.at
        for name in declared:
            if name not in tree:
                document.report((*node.path, "at"), f'no taxonomy node "{name}".{choices(name, [n.id for n in tree])}')
        known = [name for name in declared if name in tree]
        node.auxiliary = bool(declared) and not _reads_student(graph, node) and _trains_others(graph, node, learning)
        if not node.auxiliary and not _reads_student(graph, node):
            document.report(node.path, "no student tensor is compared here, so nothing would be learned from this term")
            continue
        if known and inferred and not set(inferred) & set(known):
            document.report(
                (*node.path, "at"), f"the term compares a tensor of {', '.join(inferred)}, not of {', '.join(known)}"
            )
        node.taxonomy = tuple(dict.fromkeys([*inferred, *declared, *_rewired(graph, node)]))
        if not node.taxonomy and not declared:
            problem = (
                "a term with value: needs at:, since nothing is compared"
                if node.term.value
                else ("no student tensor with a taxonomy node is compared here; write at: NODE")
            )
            document.report(node.path, problem)
    return graph


def _reads_student(graph: Graph, term: Node) -> bool:
    """True when what stands on the student's side depends on the student, masks and selections left aside."""
    return any(node.owner == "student" or node.given is not None for node in _with_gradient(graph, term))


def _trains_others(graph: Graph, term: Node, learning: Sequence[str]) -> bool:
    """True when gradient of the term reaches a module of the method's own, or a teacher that learns."""
    return any(
        (node.op and node.op.is_module)
        or (node.copied and node.copied.trainable)
        or (node.role is Role.STAGE and node.owner in learning)
        for node in _with_gradient(graph, term)
    )


def _with_gradient(graph: Graph, term: Node) -> Iterator[Node]:
    """What the student's side of a term is made from, as far as gradient reaches."""
    start = str(term.inputs.get("student") or term.inputs["value"])
    return graph.upwards(start, through=lambda node: () if node.op and node.op.no_grad else node.operands())


def _inferred(graph: Graph, term: Node) -> tuple[str, ...]:
    """Nodes of the ports nearest to the compared student tensor."""
    return tuple(dict.fromkeys(p.node for p in compared_ports(graph, term) if p.node))


def compared_ports(graph: Graph, term: Node) -> list[Port]:
    """Ports that the student tensor of a term comes from."""
    return _nearest(graph, str(term.inputs.get("student") or term.inputs["value"]))


def _nearest(graph: Graph, name: str) -> list[Port]:
    """Ports reached first when walking up from ``name`` along features (masks, boxes and labels do not count)."""
    node = graph[name]
    if node.port is not None:
        return [node.port]
    if node.role is Role.STAGE:
        return []
    output_of_op = node.role is Role.PICK
    carriers = [o for o in main_inputs(node) if output_of_op or carries_features(graph[o].value.kind)]
    found = [port for operand in carriers for port in _nearest(graph, operand)]
    return [p for p in found if p.node] or found


def main_inputs(node: Node) -> list[str]:
    """Inputs that carry what is compared: the student's side where an op has one, else all."""
    for key in ("student", "student_logits", "features", "cells"):
        if isinstance(node.inputs.get(key), str):
            return [str(node.inputs[key])]
    return list(node.operands())


def carries_features(kind: Kind) -> bool:
    """True for kinds with a feature axis that are not mere geometry, and for tables that relate rows to rows."""
    return (
        not kind.opaque
        and kind.stack != "images"
        and (kind.axes is None or bool(_FEATURE_AXES & set(kind.axes)) or kind.axes in (("b", "r"), ("n", "m")))
    )


def _rewired(graph: Graph, term: Node) -> list[str]:
    """A rewired decoder adds the query node: the compared predictions were made on other queries."""
    return sorted(
        {
            "transformer/query"
            for name in graph.upstream(term.name)
            if (node := graph[name]).role is Role.STAGE
            and node.name.split(":")[0] != node.owner
            and node.stage.startswith("decoder")
        }
    )


def rewired_nodes(graph: Graph) -> list[str]:
    """Taxonomy nodes of stages that run on other inputs than in plain inference (facet ``rewires``)."""
    found: set[str] = set()
    for node in graph.of_role(Role.PICK):
        if node.port and node.port.node and not str(node.inputs["stage"]).startswith(f"{node.owner}:"):
            found.add(node.port.node)
    return sorted(found)
