"""Two methods side by side: their terms, paired by taxonomy node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from kdflow.graph.node import Graph, Node, Operand, Role
from kdflow.graph.passes.taxonomy import main_inputs
from kdflow.graph.plan import Plan, TermInfo
from kdflow.spec.method import Reduce

BESIDE = ("teacher", "modules", "prepare", "wiring", "phases", "init")


@dataclass(frozen=True)
class TermFacts:
    """One term in words.

    Attributes:
        term: Its name in the method.
        also: Taxonomy nodes beside the one it stands at.
        student: Ports that the student's side is made from.
        teacher: Ports that the teacher's side is made from.
        through: Ops between the student's ports and the loss, and how often each.
        loss: The loss op with the options that it was given, or the reference of a ``value``.
        factors: What its elements are weighed with.
        rows: What selects its rows.
        reduction: How elements become a number.
        weight: Weight before schedules.
        schedule: Factor over time.
    """

    term: str
    also: str
    student: str
    teacher: str
    through: str
    loss: str
    factors: str
    rows: str
    reduction: str
    weight: str
    schedule: str


FACTS = tuple(field.name for field in fields(TermFacts))


@dataclass(frozen=True)
class Pair:
    """Two terms at one taxonomy node that come closest to each other, or one that has no counterpart."""

    a: TermFacts | None
    b: TermFacts | None

    @property
    def differs(self) -> tuple[str, ...]:
        """Facts in which they differ, their names aside; all where one is missing."""
        if self.a is None or self.b is None:
            return FACTS[1:]
        return tuple(name for name in FACTS[1:] if getattr(self.a, name) != getattr(self.b, name))


def pairs_by_node(a: Plan, b: Plan) -> dict[str, list[Pair]]:
    """Taxonomy node -> the terms of two plans that stand there, those with a counterpart first."""
    left, right = _by_node(a), _by_node(b)
    return {node: _paired(left.get(node, []), right.get(node, [])) for node in dict.fromkeys([*left, *right])}


def changed_losses(a: Plan, b: Plan) -> dict[str, tuple[str, str]]:
    """The student's own losses that one of the methods reweights or leaves out: name -> weight in each."""
    left, right = _own_losses(a), _own_losses(b)
    names = [name for name in dict.fromkeys([*left, *right]) if {left.get(name, "1"), right.get(name, "1")} != {"1"}]
    return {name: (left.get(name, "1"), right.get(name, "1")) for name in names}


def beside(plan: Plan) -> dict[str, str]:
    """What a method declares beside nodes and terms, in words; empty where it declares nothing."""
    found = {}
    for key in BESIDE:
        value: Any = getattr(plan.method, key)
        names = [str(getattr(entry, "name", None) or getattr(entry, "student", entry)) for entry in value]
        found[key] = value if isinstance(value, str) else ", ".join(names)
    return found


def _by_node(plan: Plan) -> dict[str, list[TermFacts]]:
    found: dict[str, list[TermFacts]] = {}
    for term in plan.terms:
        if term.is_distillation:
            found.setdefault(term.nodes[0] if term.nodes else "", []).append(_facts(plan, term))
    return found


def _paired(left: Sequence[TermFacts], right: Sequence[TermFacts]) -> list[Pair]:
    """The closest terms first; each is taken once."""
    ranked = sorted(product(left, right), key=lambda pair: -_closeness(*pair))
    pairs: list[Pair] = []
    for one, other in ranked:
        taken = any(one is pair.a or other is pair.b for pair in pairs)
        if not taken and _closeness(one, other) > 0:
            pairs.append(Pair(one, other))
    alone = [Pair(one, None) for one in left if all(one is not pair.a for pair in pairs)]
    return [*pairs, *alone, *(Pair(None, one) for one in right if all(one is not pair.b for pair in pairs))]


def _closeness(one: TermFacts, other: TermFacts) -> int:
    weights = {"student": 4, "loss": 2, "term": 2, "factors": 1, "rows": 1}
    return sum(
        points for name, points in weights.items() if getattr(one, name) and getattr(one, name) == getattr(other, name)
    )


def _facts(plan: Plan, term: TermInfo) -> TermFacts:
    graph, node = plan.graph, plan.graph[term.name]
    value = graph[str(node.inputs["value"])]
    student, teacher = value.inputs.get("student", value.name), value.inputs.get("teacher", ())
    reduce = node.term.reduce if node.term else Reduce()
    return TermFacts(
        term=term.name.partition("/")[2],
        also=", ".join(term.nodes[1:]),
        student=", ".join(_ports(plan, student)),
        teacher=", ".join(_ports(plan, teacher)),
        through=", ".join(_counted(_ops(graph, student))),
        loss=_loss(value),
        factors=_names(node.inputs.get("factors", ())),
        rows=_names(node.inputs.get("rows", ())),
        reduction=_reduction(reduce) if value.op else "",
        weight=term.strength,
        schedule=", ".join(f"{name} {_options(options)}" for name, options in term.schedule.parts),
    )


def _loss(value: Node) -> str:
    """``loss.kl(temperature=2)``: options that differ from the op's defaults are shown."""
    if value.op is None:
        return f"value {value.name}"
    defaults = {name: field.default for name, field in value.op.options.model_fields.items()}
    given = {name: option for name, option in value.options.items() if option != defaults.get(name)}
    return value.op.name + (f"({_options(given.items())})" if given else "")


def _options(options: Any) -> str:
    return ", ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in options)


def _reduction(reduce: Reduce) -> str:
    words = reduce.model_dump(exclude_defaults=True)
    over = [f"{part:g}" if isinstance(part, float) else part for part in words.pop("over", ())]
    rest = [
        f"{key}: {value if isinstance(value, (str, float)) else ', '.join(map(str, value))}"
        for key, value in words.items()
    ]
    return "; ".join([f"over {' x '.join(over)}" if over else "sum", *rest])


def _names(operand: Operand) -> str:
    return operand if isinstance(operand, str) else ", ".join(operand)


def _ports(plan: Plan, operand: Operand) -> list[str]:
    """Ports reached first on the way up, in order: ``student.neck``, ``teacher.roi.logits (rewired)``."""
    found = [node for node in _upwards(plan.graph, operand) if node.port is not None]
    return list(dict.fromkeys(_port(plan, node) for node in found))


def _port(plan: Plan, node: Node) -> str:
    ports = plan.detectors[node.owner].ports if node.owner in plan.detectors else {}
    name = next((name for name, spec in ports.items() if spec is node.port), None)
    if name is None or node.name == f"{node.owner}.{name}":
        return node.name.removesuffix("~classes")
    stage = plan.graph[str(node.inputs.get("stage", node.name))]
    return f"{node.owner}.{name} ({'copied' if stage.copied else 'rewired'})"


def _ops(graph: Graph, operand: Operand) -> list[str]:
    """Ops between these ports and the loss, from the ports on."""
    return [node.op.name for node in _upwards(graph, operand) if node.op is not None and node.port is None][::-1]


def _upwards(graph: Graph, operand: Operand) -> Iterator[Node]:
    """Nodes above an operand, no further than the first port on each way."""

    def through(node: Node) -> list[str]:
        ends = node.port is not None or node.role is Role.INPUT or node.prepared
        return [] if ends else _carriers(graph, node)

    return graph.upwards(*([operand] if isinstance(operand, str) else operand), through=through)


def _carriers(graph: Graph, node: Node) -> list[str]:
    """Inputs that carry what is compared; of an op that hands several on, the one that this is."""
    source = graph[str(node.inputs["stage"])] if node.role is Role.PICK else None
    if source is not None and source.op is not None and node.key in source.inputs:
        operand = source.inputs[node.key]
        return [operand] if isinstance(operand, str) else list(operand)
    return main_inputs(node)


def _counted(names: Sequence[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{names.count(name)} {name}" for name in dict.fromkeys(names)]


def _own_losses(plan: Plan) -> Mapping[str, str]:
    kept = {t.name.partition("/")[2]: f"{t.weight:g}" for t in plan.terms if not t.is_distillation}
    return {**kept, **{name: "dropped" for name, entry in plan.method.detector_terms.items() if entry.drop}}
