"""Portability: which method compiles on which bench, and where it does not, why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kdflow.errors import KdflowError, SpecError
from kdflow.escape import markdown, unmarked
from kdflow.experiment.reading import read_method
from kdflow.experiment.setup import prepare
from kdflow.experiment.shelf import Shelf

UNKNOWN = "-"
"""What stands in a table for a pair that was not tried."""


@dataclass(frozen=True)
class Cell:
    """One method on one bench.

    Attributes:
        method: Slug.
        bench: Bench name.
        runs: True when the method compiles on the bench's detectors.
        reason: The first fault where it does not.
        nodes: Taxonomy nodes of its terms where it does.
    """

    method: str
    bench: str
    runs: bool
    reason: str = ""
    nodes: tuple[str, ...] = ()


def portability(methods: Iterable[str | Path], benches: Iterable[str | Path]) -> list[Cell]:
    """Compile every method on every bench; nothing is trained and no weights are read.

    Args:
        methods: Slugs or files.
        benches: Names or files.

    Returns:
        One cell per pair, method by method.
    """
    chosen = list(methods)
    by_bench = [[_cell(method, bench, shelf) for method in chosen] for bench in benches for shelf in [Shelf()]]
    return [cell for cells in zip(*by_bench) for cell in cells]


def _cell(method: str | Path, bench: str | Path, shelf: Shelf) -> Cell:
    slug, place = Path(method).stem, Path(bench).stem
    try:
        plan = prepare(read_method(method), bench, shelf=shelf).plan
    except SpecError as error:
        return Cell(slug, place, False, error.faults[0].problem)
    except KdflowError as error:
        return Cell(slug, place, False, str(error).splitlines()[0])
    nodes = dict.fromkeys(node for term in plan.terms for node in term.nodes)
    return Cell(slug, place, True, nodes=tuple(nodes))


def as_markdown(cells: Iterable[Cell]) -> str:
    """A table of methods by benches, and below it the reasons; pairs without a cell are :data:`UNKNOWN`."""
    found = list(cells)
    benches, methods = list(dict.fromkeys(c.bench for c in found)), list(dict.fromkeys(c.method for c in found))
    by_pair = {(c.method, c.bench): c for c in found}
    lines = ["| method | " + " | ".join(map(markdown, benches)) + " |", "|---" * (len(benches) + 1) + "|"]
    reasons: dict[str, int] = {}
    for method in methods:
        words = []
        for bench in benches:
            cell = by_pair.get((method, bench))
            if cell is None:
                words.append(UNKNOWN)
            else:
                words.append("runs" if cell.runs else f"[{reasons.setdefault(cell.reason, len(reasons) + 1)}]")
        lines.append(f"| {markdown(method)} | " + " | ".join(words) + " |")
    notes = [f"{number}. {markdown(reason)}" for reason, number in reasons.items()]
    return "\n".join([*lines, "", *notes]) + "\n"


def from_markdown(text: str) -> list[Cell]:
    """The cells of a table that :func:`as_markdown` wrote; what it leaves out, and how it escapes reasons, stays."""
    lines = text.splitlines()
    rows = [[word.strip() for word in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    reasons = dict(line.split(". ", 1) for line in lines if line[:1].isdigit() and ". " in line)
    benches = [unmarked(word) for word in rows[0][1:]] if rows else []
    return [
        Cell(unmarked(method), bench, word == "runs", "" if word == "runs" else unmarked(reasons[word.strip("[]")]))
        for method, *words in rows[1:]
        for bench, word in zip(benches, words, strict=True)
        if word != UNKNOWN
    ]
