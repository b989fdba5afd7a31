"""Facets of a method that are computed from its graph and never written: knowledge and needs."""

from __future__ import annotations

from kdflow.graph.node import Graph, Node, Role
from kdflow.graph.passes.taxonomy import compared_ports
from kdflow.spec.method import Method

_RESPONSE = ("logits", "deltas", "boxes", "distribution", "centerness")


def knowledge(graph: Graph) -> tuple[str, ...]:
    """What the terms compare: ``feature``, ``response``, ``relation``, ``assignment``."""
    found = set()
    for term in _terms(graph):
        ops = {node.op.name for node in graph.upwards(term.name) if node.op}
        keys = {port.key for port in compared_ports(graph, term)}
        if any(name.startswith(("relation.", "attention.")) for name in ops) or any("attention" in key for key in keys):
            found.add("relation")
        elif any(key.endswith(_RESPONSE) for key in keys):
            found.add("response")
        elif keys:
            found.add("feature")
        else:
            found.add("assignment")
    return tuple(sorted(found))


def needs(graph: Graph, method: Method) -> tuple[str, ...]:
    """What the method asks for beyond a student: a subset of the taxonomy's ``needs``."""
    used = graph.upstream(*(term.name for term in _terms(graph)))
    stages = [graph[name] for name in used if graph[name].role is Role.STAGE]
    rerun = {stage.owner for stage in stages if not stage.name.startswith(f"{stage.owner}:") and not stage.copied}
    modules = [name for name in used if (op := graph[name].op) is not None and op.is_module]
    modules += [stage.name for stage in stages if stage.copied and stage.copied.trainable]
    found = {
        "gt": any(name.startswith("targets.") for name in used),
        "teacher_forward": any(stage.owner not in ("student", "") and not stage.copied for stage in stages),
        "teacher_rerun": any(owner != "student" for owner in rerun),
        "student_rerun": "student" in rerun,
        "trainable_adapter": bool(modules),
        "offline_stage": bool(method.prepare) or len(method.phases) > 1,
        "schedule": bool(method.schedule) or any(entry.schedule for entry in method.terms.values()),
    }
    return tuple(name for name, holds in found.items() if holds)


def _terms(graph: Graph) -> list[Node]:
    return [node for node in graph.of_role(Role.TERM) if node.name.startswith("kd/")]
