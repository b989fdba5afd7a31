"""Reductions in words: what becomes of the elements of a term, and what a method leaves open there."""

from __future__ import annotations

from kdflow.graph.node import Graph
from kdflow.kinds import Kind
from kdflow.spec.method import MEAN, Reduce

_JOINED = {"sum": "summed", "mean": "averaged", "pooled": "pooled: all numerators over all divisors"}


def reduction(graph: Graph, term: str) -> str:
    """How the elements of a term become one number.

    ``sum / elements in each of 5 levels, which are summed``.
    """
    node = graph[term]
    if node.term is None:
        return ""
    reduce = node.term.reduce
    text = _quotient(reduce)
    text += f" per image, {'averaged' if reduce.images == 'mean' else 'summed'}" if reduce.scope == "image" else ""
    if not (entries := _entries(graph, term)):
        return text
    return f"{text} in each of {entries}, which are {_joined(reduce)}"


def unsaid(graph: Graph, term: str) -> str:
    """What a term leaves to the default, though published losses differ there: how several entries of a stack are joined.

    Empty where it is said, where nothing is averaged or divided, and where there is one entry only.
    """
    node = graph[term]
    entries = _entries(graph, term)
    if node.term is None or not entries or node.term.reduce.levels is not None or node.term.reduce.is_plain_sum:
        return ""
    sums, means = ("sum_of_means", "mean_of_means") if node.term.reduce == MEAN else ("levels: sum", "levels: mean")
    return f"{term} is reduced in each of {entries}, which are summed: reduce: {sums} says so, {means} averages them"


def _quotient(reduce: Reduce) -> str:
    parts = [f"{p:g}" if isinstance(p, float) else str(p) for p in reduce.over]
    head = "sum" if reduce.sum == "all" else f"sum over {', '.join(reduce.sum)}, mean over the rest"
    head = f"root of the sum over {', '.join(reduce.root)}, then {head}" if reduce.root else head
    divisor = " x ".join(parts)
    if divisor and reduce.floor is not None:
        least = reduce.floor if isinstance(reduce.floor, str) else f"{reduce.floor:g}"
        divisor = f"{divisor} (at least {least})"
    return f"{head} / {divisor}" if divisor else head


def _entries(graph: Graph, term: str) -> str:
    """``5 levels``; empty for a single entry, and for what is no stack."""
    value = graph[str(graph[term].inputs["value"])].value
    kind: Kind = value.kind
    if kind.stack is None or not isinstance(value.fake, (list, tuple)) or len(value.fake) < 2:
        return ""
    return f"{len(value.fake)} {kind.stack}"


def _joined(reduce: Reduce) -> str:
    if reduce.levels is None or isinstance(reduce.levels, str):
        return _JOINED[reduce.levels or "sum"]
    return f"summed with weights {', '.join(f'{weight:g}' for weight in reduce.levels)}"
