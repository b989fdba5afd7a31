"""``kdflow diff``: two methods side by side."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdflow.cli.console import columns, say, say_json
from kdflow.cli.options import BenchOption, JsonOption

if TYPE_CHECKING:
    from kdflow.experiment.setup import Setting
    from kdflow.graph.compare import Pair

First = Annotated[
    str, typer.Argument(metavar="A", help="A method file, or the name of a method that comes with kdflow.")
]
Second = Annotated[str, typer.Argument(metavar="B", help="The method that it is compared with.")]


def diff(a: First, b: Second, bench: BenchOption = None, json: JsonOption = False) -> None:
    """Show two methods side by side, taxonomy node by taxonomy node.

    Terms that come closest stand beside each other: what they compare, how it is reduced, weight and schedule. What only one of
    the methods has comes last at its node. Without --bench each method is compiled on its own bench.
    """
    from kdflow.experiment.reading import read_method
    from kdflow.experiment.setup import prepare

    one, other = (prepare(read_method(method), bench) for method in (a, b))
    if json:
        say_json(as_json(one, other))
    else:
        say(as_text(one, other))


def as_json(a: Setting, b: Setting) -> dict[str, Any]:
    """The comparison as plain data; ``a`` or ``b`` of a pair is null where the other method has no such term."""
    from kdflow.graph.compare import beside, changed_losses, pairs_by_node

    return {
        "a": {"method": a.method.method, "title": a.method.title, "bench": a.bench.bench, "beside": beside(a.plan)},
        "b": {"method": b.method.method, "title": b.method.title, "bench": b.bench.bench, "beside": beside(b.plan)},
        "nodes": [
            {"node": node, "pairs": [{**asdict(pair), "differs": list(pair.differs)} for pair in pairs]}
            for node, pairs in pairs_by_node(a.plan, b.plan).items()
        ],
        "detector_losses": {name: list(weights) for name, weights in changed_losses(a.plan, b.plan).items()},
    }


def as_text(a: Setting, b: Setting) -> str:
    """Columns for a terminal: fact, first method, second method; ``=`` stands for "the same"."""
    from kdflow.graph.compare import beside, changed_losses, pairs_by_node

    rows = [["", a.method.method, b.method.method], ["bench", a.bench.bench, _same(a.bench.bench, b.bench.bench)]]
    left, right = beside(a.plan), beside(b.plan)
    rows += [[key, left[key] or "-", _same(left[key], right[key])] for key in left if left[key] or right[key]]
    for node, pairs in pairs_by_node(a.plan, b.plan).items():
        rows += [["", "", ""], [node or "no node", "", ""]]
        for pair in pairs:
            rows += _rows(pair)
    if losses := changed_losses(a.plan, b.plan):
        rows += [["", "", ""], ["detector's own losses", "", ""]]
        rows += [[f"  {name}", first, _same(first, second)] for name, (first, second) in losses.items()]
    return columns(rows)


def _rows(pair: Pair) -> list[list[str]]:
    """One pair of terms: a line with their names, then a line per fact that one of them has."""
    from kdflow.graph.compare import FACTS

    def fact(term: Any, name: str) -> str:
        return str(getattr(term, name)) if term is not None else ""

    rows = [["  term", fact(pair.a, "term") or "-", fact(pair.b, "term") or "-"]]
    for name in FACTS[1:]:
        first, second = fact(pair.a, name), fact(pair.b, name)
        if first or second:
            both = pair.a is not None and pair.b is not None
            rows.append([f"    {name}", first or ("-" if both else ""), _same(first, second) if both else second])
    return rows


def _same(first: str, second: str) -> str:
    return "=" if first == second else second or "-"
