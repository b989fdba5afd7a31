"""What the report shows, read from the store once: lines of the query, and for each its curves, spec and drawing."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kdflow.results.measured import read_records
from kdflow.results.published import published_records
from kdflow.results.query import Answer, Line, query
from kdflow.results.record import BASELINE, Record
from kdflow.tracking.run import PEAK
from kdflow.tracking.store import Curve, open_client, read_curves, read_texts, store_uri

SPEC, GRAPH = "run.yaml", "graph.svg"


@dataclass(frozen=True)
class Entry:
    """A measured line with what lies behind it.

    Attributes:
        line: Method in a bench, averaged over seeds.
        records: Its runs, in the order of their seeds.
        shares: Part of the loss (``det``, taxonomy node) -> (step, share in 0..1) of the first run; the parts of a step add up to
            1. Absolute values count.
        validation: (step, metric on the validation split) of the first run.
        step_ms: Median milliseconds of a training step, over the runs; None where unknown.
        spec: The filled method and bench of the first run; the others differ in the seed alone.
        graph: Drawing of the method as SVG; empty for a plain student.
        peak_memory_mib: Most memory of the GPU that a run took; None on a CPU.
    """

    line: Line
    records: tuple[Record, ...] = ()
    shares: Mapping[str, Curve] = field(default_factory=dict)
    validation: Curve = ()
    step_ms: float | None = None
    spec: str = ""
    graph: str = ""
    peak_memory_mib: float | None = None

    @property
    def key(self) -> str:
        """Anchor of this entry on the page."""
        return f"run-{self.records[0].run_id[:12]}" if self.records else f"line-{self.line.record.method}"


@dataclass(frozen=True)
class Facts:
    """Everything on the page.

    Attributes:
        metric: What lines are ordered and gains are given in.
        against: The method that measured gains are counted from.
        where: The filter, empty for everything.
        made: UTC time in words.
        taxonomy: Measured and published lines by taxonomy node.
        entries: Measured lines, bench by bench, each bench with its plain student first.
    """

    metric: str
    against: str
    where: str
    made: str
    taxonomy: Answer
    entries: tuple[Entry, ...]

    @property
    def benches(self) -> Mapping[tuple[str, str], list[Entry]]:
        """Bench and its hash -> entries."""
        found: dict[tuple[str, str], list[Entry]] = {}
        for entry in self.entries:
            found.setdefault((entry.line.record.bench, entry.line.record.bench_hash), []).append(entry)
        return found

    def count(self, origin: str) -> int:
        """Runs of an origin; of the literature its rows without those of plain detectors."""
        lines = {id(line.record): line for _, line in self.taxonomy.lines if line.record.origin == origin}
        return sum(line.runs for line in lines.values() if origin == "measured" or not line.record.is_baseline)


def gather(
    uri: str | None = None, where: str = "", against: str = BASELINE, metric: str = "AP", ablations: bool = False
) -> Facts:
    """Read the store and the literature.

    Args:
        uri: The store; see :func:`kdflow.tracking.store.store_uri`.
        where: A filter for measured and published records (:mod:`kdflow.results.where`).
        against: The method that measured gains are counted from.
        metric: Orders the lines; gains are given in it.
        ablations: Also published rows that take a method apart.

    Raises:
        KdflowError: The store cannot be opened.
        UsageError: An unknown metric, or a filter that cannot be read.
    """
    measured = read_records(uri)
    every = [*measured, *published_records()]
    taxonomy = query(every, "taxonomy", where, against, metric, ablations)
    asked = f"({where}) and origin = 'measured'" if where.strip() else "origin = 'measured'"
    benches = query(every, "bench", asked, against, metric)
    lines = [line for _, line in benches.lines]
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return Facts(metric, against, where, made, taxonomy, _entries(lines, measured, store_uri(uri), metric))


def _entries(lines: Sequence[Line], records: Iterable[Record], uri: str, metric: str) -> tuple[Entry, ...]:
    if not lines:
        return ()
    client, known = open_client(uri), {record.run_id: record for record in records}
    return tuple(_entry(client, line, [known[run] for run in line.run_ids if run in known], metric) for line in lines)


def _entry(client: Any, line: Line, records: Sequence[Record], metric: str) -> Entry:
    first = records[0]
    losses = ["loss/det", *(f"loss/{node}" for node in first.nodes)]
    curves = read_curves(client, first.run_id, [*losses, f"val/{metric}"])
    speeds = [read_curves(client, record.run_id, ["step_time", PEAK]) for record in records]
    times = [1000 * statistics.median(value for _, value in own["step_time"]) for own in speeds if own["step_time"]]
    peaks = [value for own in speeds for _, value in own[PEAK]]
    texts = read_texts(client, first.run_id, (SPEC, GRAPH))
    return Entry(
        line, tuple(records), shares_of({name.removeprefix("loss/"): curves[name] for name in losses}),
        curves[f"val/{metric}"], statistics.median(times) if times else None, texts.get(SPEC, ""), texts.get(GRAPH, ""),
        max(peaks, default=None),
    )


def shares_of(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """Share of each part in the sum of absolute values, at the steps that all parts have; parts without a value are left out."""
    known = {name: dict(curve) for name, curve in curves.items() if curve}
    if len(known) < 2:
        return {}
    steps = sorted(set.intersection(*(set(curve) for curve in known.values())))
    totals = {step: sum(abs(curve[step]) for curve in known.values()) for step in steps}
    return {
        name: tuple((step, abs(curve[step]) / totals[step]) for step in steps if totals[step] > 0)
        for name, curve in known.items()
    }
