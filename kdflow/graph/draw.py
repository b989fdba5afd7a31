"""The graph in words and pictures: text, JSON, Mermaid, SVG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdflow.escape import mermaid, one_line
from kdflow.graph.node import Graph, Node, Role, what
from kdflow.graph.passes.infer import show
from kdflow.graph.plan import Plan
from kdflow.graph.reductions import reduction
from kdflow.graph.svg import COLOURS, layered_svg


def as_json(plan: Plan, shares: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Terms, taps, teacher stages and adapters as plain data.

    Args:
        plan: A compiled plan.
        shares: Teacher stage (``teacher.neck``) -> its share of the teacher's operations.
    """
    shares = shares or {}
    return {
        "method": plan.method.method,
        "detectors": {
            owner: {"name": d.name, "family": d.family, "licence": d.licence} for owner, d in plan.detectors.items()
        },
        "terms": [
            {
                "name": t.name,
                "node": t.nodes[0] if t.nodes else None,
                "nodes": list(t.nodes),
                "weight": t.weight if t.share is None else {"share": t.share},
                "reduce": reduction(plan.graph, t.name) if t.is_distillation else None,
            }
            for t in plan.terms
        ],
        "taps": [
            {
                "name": n.name,
                "kind": str(n.value.kind),
                "shape": show(n.value.fake),
                "node": n.port.node if n.port else None,
            }
            for n in taps(plan.graph)
        ],
        "teacher": {
            "run": list(plan.report.teacher_stages_run),
            "pruned": list(plan.report.teacher_stages_pruned),
            "pruned_share_of_flops": _pruned(plan, shares) if shares else None,
        },
        "adapters": [{"name": name, "parameters": count} for name, count in plan.report.adapters.items()],
        "rewires": list(plan.report.rewires),
        "frozen": list(plan.report.frozen),
    }


def taps(graph: Graph) -> list[Node]:
    """Ports that the method reads: picks used by an op, a term or a rewired stage."""
    found = []
    for node in graph.of_role(Role.PICK):
        users = [graph[u] for u in graph.dag.successors(node.name)]
        if node.port is not None and any(_reads(node, user) for user in users):
            found.append(node)
    return found


def _reads(port: Node, user: Node) -> bool:
    if user.role is Role.TERM:
        return user.name.startswith("kd/")
    if user.role is Role.STAGE:
        return user.name.split(":")[0] != str(port.inputs["stage"]).split(":")[0]
    return user.role in (Role.OP, Role.SLICE)


def as_text(plan: Plan, shares: Mapping[str, float] | None = None) -> str:
    """Taps, nodes, terms and the teacher's cost, for a terminal."""
    facts = as_json(plan, shares)
    lines = [f"{plan.method.method}: {plan.method.title}".rstrip(": ")]
    for owner, d in facts["detectors"].items():
        lines.append(f"  {owner}: {d['name']} ({d['family']}{', licence ' + d['licence'] if d['licence'] else ''})")
    lines += ["", "taps"] + [
        f"  {t['name']:<28} {t['kind']:<12} {t['shape']:<34} {t['node'] or ''}" for t in facts["taps"]
    ]
    lines += ["", "nodes"] + [f"  {_line(node)}" for node in plan.graph.of_role(Role.OP)]
    lines += ["", "terms"]
    for term in plan.terms:
        lines.append(f"  {term.name:<28} {', '.join(term.nodes) or 'detector':<30} weight {term.strength}")
        if term.is_distillation:
            lines.append(f"  {'':<28} {reduction(plan.graph, term.name)}")
    lines += ["", "teacher stages"]
    for stage in plan.report.teacher_stages_run:
        lines.append(f"  runs    {stage}{_share(shares, stage)}")
    for stage in plan.report.teacher_stages_pruned:
        lines.append(f"  pruned  {stage}{_share(shares, stage)}")
    for owner, share in (facts["teacher"]["pruned_share_of_flops"] or {}).items():
        whose = "the teacher" if owner == "teacher" else owner
        lines.append(f"  {share:.0%} of {whose}'s operations never run")
    if plan.report.frozen:
        lines += ["", f"frozen, because no loss of the student reaches them: {', '.join(plan.report.frozen)}"]
    lines += ["", "adapters"] + [f"  {a['name']:<28} {a['parameters']:,} parameters" for a in facts["adapters"]]
    if not facts["adapters"]:
        lines.append("  none")
    return "\n".join(lines)


def _pruned(plan: Plan, shares: Mapping[str, float]) -> dict[str, float]:
    """Teacher -> share of its own operations that never run."""
    found = dict.fromkeys((stage.partition(".")[0] for stage in shares), 0.0)
    for stage in plan.report.teacher_stages_pruned:
        found[stage.partition(".")[0]] += shares.get(stage, 0.0)
    return found


def _share(shares: Mapping[str, float] | None, stage: str) -> str:
    return f"  {shares[stage]:.0%}" if shares and stage in shares else ""


def _line(node: Node) -> str:
    options = ", ".join(f"{k}={v}" for k, v in node.options.items() if v is not None)
    return one_line(f"{node.name:<28} {what(node)}({', '.join(node.operands())})" + (f"  [{options}]" if options else ""))


def as_mermaid(plan: Plan) -> str:
    """The method as a Mermaid flow chart."""
    view = plan.graph.boxes()
    lines = ["flowchart LR"]
    keys = {name: f"n{number}" for number, name in enumerate(view.nodes)}
    for name, data in view.nodes(data=True):
        label = "<br/>".join(map(mermaid, str(data["label"]).split("\n")))
        lines.append(f'  {keys[name]}["{label}"]:::{data["group"]}')
    lines += [f"  {keys[a]} --> {keys[b]}" for a, b in view.edges]
    lines += [f"  classDef {group} fill:{colour},stroke:#6b7280" for group, colour in COLOURS.items()]
    return "\n".join(lines) + "\n"


def as_svg(plan: Plan) -> str:
    """The method as a self-contained SVG picture, inputs left, terms right."""
    return layered_svg(plan.graph.boxes())
