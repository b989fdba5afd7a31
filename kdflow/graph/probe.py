"""Look at the values of a method's nodes: what is dead, saturated or collapsed, and how large the two sides of each term are.

A term can live, with a gradient that reaches the student, and still say nothing: a softmax over places that puts all of
its weight on one pixel, a mask that is 0 everywhere, a student whose maps are a hundredth of the teacher's. Such nodes
are named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdflow.functional.axes import dims_of
from kdflow.graph.node import Graph, Node, Role, what
from kdflow.graph.plan import Plan
from kdflow.ports import Batch

PLACES = 8
"""Distributions over fewer entries are not judged."""
FEW = 2.0
"""A distribution that is as concentrated as one over fewer entries than this has collapsed."""
APART = 30.0
"""Sides whose root mean squares differ by more than this factor are not comparable."""
EDGE = 1e-6
"""Probabilities nearer than this to 0 or 1 are saturated."""


@dataclass(frozen=True)
class Finding:
    """One node that says nothing.

    Attributes:
        node: Its name.
        op: What it does.
        problem: What was found, and what to do about it.
    """

    node: str
    op: str
    problem: str

    def __str__(self) -> str:
        return f"{self.node} ({self.op}): {self.problem}"


@dataclass(frozen=True)
class Sides:
    """Root mean squares of what a term compares, per entry of a stack (level, layer); one entry for a value that is no stack."""

    term: str
    student: tuple[float, ...]
    teacher: tuple[float, ...]

    @property
    def problem(self) -> str:
        """Words for sides that are far apart; empty for all others."""
        for number, (own, other) in enumerate(zip(self.student, self.teacher)):
            if own > 0 and other > 0 and not 1 / APART <= own / other <= APART:
                place = f" in entry {number}" if len(self.student) > 1 else ""
                words = f"the student's root mean square is {own:.2g}, the teacher's {other:.2g}{place}"
                return f"{self.term}: {words}; standardise both sides, or let an adapter with a norm stand between them"
        return ""


@dataclass(frozen=True)
class Probe:
    """What was seen in all batches."""

    findings: tuple[Finding, ...] = ()
    sides: tuple[Sides, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """All that is wrong, a sentence each."""
        return (*map(str, self.findings), *filter(None, (one.problem for one in self.sides)))


def probe(plan: Plan, batches: Iterable[Batch]) -> Probe:
    """Look at the nodes of the present phase's distillation terms; what is wrong in one batch alone is passed over.

    Nodes that need what a preparation gathers are left out. Statistics of norms move as in any pass in training mode.

    Args:
        plan: On the batches' device.
        batches: A few.
    """
    names = probed(plan)
    graph, found, squares = plan.graph, list[list[Finding]](), list[dict[str, Any]]()
    for batch in batches if names else ():
        with torch.no_grad():
            values = plan.evaluate(batch, names)
        found.append([finding for name in names for finding in _judge(graph[name], values)])
        squares.append(dict(_sides(plan, values)))
    if not found:
        return Probe()
    everywhere = [one for one in found[0] if all(any(_alike(one, other) for other in rest) for rest in found[1:])]
    means = {term: tuple(_root([seen[term][side] for seen in squares]) for side in (0, 1)) for term in squares[0]}
    return Probe(tuple(everywhere), tuple(Sides(term, *sides) for term, sides in means.items()))


def probed(plan: Plan) -> list[str]:
    """Names of the nodes that are looked at: operations of the terms, and what these compare."""
    graph = plan.graph
    terms = [name for name in plan.active if name.startswith("kd/")]
    wanted = graph.upstream(*terms)
    waiting = {name for name in wanted if any(node.prepared for node in graph.upwards(name))}
    ops = [node.name for node in graph.of_role(Role.OP) if node.name in wanted - waiting]
    compared = [name for term in terms for name in _compared(graph, term) if name not in waiting]
    return list(dict.fromkeys([*ops, *compared]))


def _compared(graph: Graph, term: str) -> tuple[str, ...]:
    """The student's and the teacher's value that a term's loss is given."""
    loss = graph[str(graph[term].inputs["value"])]
    pair = [loss.inputs.get(side) for side in ("student", "teacher")] if loss.op is not None else []
    return tuple(name for name in pair if isinstance(name, str)) if all(pair) else ()


def _alike(one: Finding, other: Finding) -> bool:
    return (one.node, one.problem[:12]) == (other.node, other.problem[:12])


def _judge(node: Node, values: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with one node's value; of a stack, its first entry at fault speaks for all.

    Dead is a stack only as a whole: a level without objects is nothing to tell.
    """
    entries = list(_entries(values[node.name]))
    dead = [_dead(node, entry) for _, entry in entries]
    if dead and all(dead):
        yield Finding(node.name, what(node), dead[0])
        return
    for number, entry in entries:
        inputs = {key: _entry_of(values.get(str(name)), number) for key, name in node.inputs.items()}
        if problem := _saturated(node, entry) or _collapsed(node, entry, inputs):
            place = f" (entry {number} of {node.value.kind.stack})" if number is not None else ""
            yield Finding(node.name, what(node), problem + place)
            return


def _dead(node: Node, value: Tensor) -> str:
    if value.numel() <= PLACES or value.dim() < 2 or (node.op is not None and node.op.is_module):
        return ""  # layers may begin at 0
    low, high = value.min().item(), value.max().item()
    if low != high:
        return ""
    return "0 everywhere, so nothing is weighed or compared there" if low == 0 else f"{low:.3g} everywhere: its variance is 0"


def _saturated(node: Node, value: Tensor) -> str:
    if node.op is None or not node.op.name.endswith(("softmax", "sigmoid")):
        return ""
    edge = (((value < EDGE) | (value > 1 - EDGE)).float().mean()).item()
    if edge < 0.99 or value.max().item() < 1 - EDGE:
        return ""
    return f"{100 * edge:.0f} % of its probabilities are 0 or 1, so no gradient passes; a higher temperature spreads them"


def _collapsed(node: Node, value: Tensor, inputs: Mapping[str, Any]) -> str:
    """Words for a distribution that lies on a single entry in most of its groups."""
    groups = _distributions(node, value, inputs)
    for words, entries in groups:
        count = entries.shape[-1]
        if count < PLACES:
            continue
        weights = entries / entries.sum(-1, keepdim=True).clamp_min(1e-30)
        effective = torch.special.entr(weights).sum(-1).exp()
        if (effective < FEW).float().mean().item() > 0.5:
            middle = effective.median().item()
            return f"collapsed: {words} lies on {middle:.1f} of {count} entries; a higher temperature spreads it"
    return ""


def _distributions(node: Node, value: Tensor, inputs: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """Distributions that a node makes, as (groups, entries)."""
    name, options = (node.op.name, node.options) if node.op is not None else ("", {})
    if name in ("attention.spatial", "attention.channel"):
        return [("its weight", value.flatten(1).clamp_min(0))]
    if name == "transform.softmax" and node.value.kind.axes:
        over = dims_of(options.get("over", ("c",)), node.value.kind.axes)
        rest = [d for d in range(value.dim()) if d not in {o % value.dim() for o in over}]
        return [("its weight", value.permute(*rest, *(o % value.dim() for o in over)).flatten(len(rest)))]
    if name == "loss.kl" and set(options.get("over", ())) == {"y", "x"}:
        sides = [(f"the {side}'s softmax over places", inputs.get(side)) for side in ("teacher", "student")]
        temperature = options.get("temperature", 1.0)
        return [(words, (side.flatten(2).float() / temperature).softmax(-1)) for words, side in sides if isinstance(side, Tensor)]
    return []


def _sides(plan: Plan, values: Mapping[str, Any]) -> Iterator[tuple[str, tuple[list[float], list[float]]]]:
    """Mean squares of what each term compares, per entry."""
    for term in plan.active:
        if term.startswith("kd/") and len(pair := _compared(plan.graph, term)) == 2 and all(name in values for name in pair):
            own, other = ([_square(entry) for _, entry in _entries(values[name])] for name in pair)
            if own and len(own) == len(other):
                yield term, (own, other)


def _square(value: Tensor) -> float:
    return value.float().square().mean().item() if value.numel() else 0.0


def _root(squares: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple((sum(column) / len(column)) ** 0.5 for column in zip(*squares))


def _entries(value: Any) -> Iterator[tuple[int | None, Tensor]]:
    """Floating-point tensors of a value with their place in a stack; None for one that is no stack."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield None, value
    elif isinstance(value, (list, tuple)):
        for number, entry in enumerate(value):
            if isinstance(entry, Tensor) and entry.is_floating_point():
                yield number, entry


def _entry_of(value: Any, number: int | None) -> Any:
    return value[number] if number is not None and isinstance(value, (list, tuple)) and number < len(value) else value


def sentences(plan: Plan, batches: Iterable[Batch]) -> tuple[str, ...]:
    """What is wrong with a plan's values in these batches; empty where nothing is."""
    return probe(plan, batches).notes
