"""Questions to the records: grouped by taxonomy, method, bench, family or knowledge, gains over the plain student."""

from __future__ import annotations

import importlib
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from kdflow.errors import UsageError, choices
from kdflow.results.record import BASELINE, LOWER_IS_BETTER, METRICS, Record
from kdflow.results.where import where as parse_where
from kdflow.taxonomy import Tree, load_tree

By = Literal["taxonomy", "method", "bench", "family", "knowledge"]


@dataclass(frozen=True)
class Line:
    """One method in one setting.

    Attributes:
        record: The newest of the records behind it; its words (method, bench, nodes, source) hold for all of them.
        runs: How many records were averaged; 1 for a published number, whose own number of runs is unknown.
        seeds: Their seeds.
        mean: Metric -> mean over the runs.
        spread: Metric -> sample standard deviation; absent with one run.
        gain: Metric -> difference to the plain student; absent without one. Negative is worse, whatever the metric.
        gain_spread: Metric -> standard deviation of the gain; absent where either side has one run.
        literature: Measured lines: smallest and largest published gain of the same method in the query's metric.
        run_ids: The measured runs behind it, in the order of their seeds.
        teacher: Metric -> what the teacher reaches on the same images, mean over the runs that know it.
        closed: Metric -> part of the gap from the plain student to the teacher that was closed, in percent; absent where the
            teacher is not above the plain student.
        classes: Class -> mean AP.
        class_gain: Class -> difference to the plain student's.
    """

    record: Record
    runs: int
    seeds: tuple[int, ...]
    mean: Mapping[str, float]
    spread: Mapping[str, float]
    gain: Mapping[str, float]
    gain_spread: Mapping[str, float]
    literature: tuple[float, float] | None = None
    run_ids: tuple[str, ...] = ()
    teacher: Mapping[str, float] = field(default_factory=dict)
    closed: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, float] = field(default_factory=dict)
    class_gain: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The method with its variant, as listings show it."""
        name = "no distillation" if self.record.is_baseline else self.record.method
        return f"{name} ({self.record.variant})" if self.record.variant else name


@dataclass(frozen=True)
class Summary:
    """The gains of one group, for one origin.

    Attributes:
        origin: ``measured`` or ``published``.
        lines: Lines with a known gain in the query's metric.
        low: Smallest gain.
        median: Their median.
        high: Largest gain.
    """

    origin: str
    lines: int
    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Group:
    """The lines of one key.

    Attributes:
        key: Taxonomy id, method, bench, family or knowledge.
        title: Name for people.
        depth: Indentation; taxonomy roots are 0, their nodes 1.
        lines: Measured before published; inside a bench the plain student first, then by falling metric.
        summaries: One per origin that has gains; the two are not joined.
    """

    key: str
    title: str
    depth: int
    lines: tuple[Line, ...]
    summaries: tuple[Summary, ...]


@dataclass(frozen=True)
class Answer:
    """What a query found.

    Attributes:
        by: How it is grouped.
        metric: The metric that lines are ordered and gains are summed up by.
        groups: In the order of the taxonomy, or sorted.
        records: Those that passed the filter, one per run and per published row.
        superseded: Measured records left out because a newer run of the same method, bench and seed exists.
    """

    by: str
    metric: str
    groups: tuple[Group, ...]
    records: tuple[Record, ...] = field(repr=False)
    superseded: int

    @property
    def lines(self) -> tuple[tuple[Group, Line], ...]:
        """All lines with their group."""
        return tuple((group, line) for group in self.groups for line in group.lines)

    def rows(self) -> list[dict[str, Any]]:
        """The lines as plain data, as in ``--form json``: one dict per line, with its group, method, bench and numbers."""
        from kdflow.results.table import facts

        return [facts(group, line) for group, line in self.lines]

    def to_pandas(self) -> Any:
        """The lines as a ``pandas.DataFrame``; raises UsageError where pandas is not installed."""
        try:
            pandas: Any = importlib.import_module("pandas")
        except ImportError:
            raise UsageError("pandas is not installed. Next: pip install pandas, or take .rows()") from None
        return pandas.json_normalize(self.rows())

    def _repr_html_(self) -> str:
        """The table, in a notebook."""
        from kdflow.results.table import as_html

        return as_html(self)


def query(
    records: Iterable[Record],
    by: str = "taxonomy",
    where: str = "",
    against: str = BASELINE,
    metric: str = "AP",
    ablations: bool = False,
    tree: Tree | None = None,
) -> Answer:
    """Group records, average over seeds, and count gains over the plain student of the same bench.

    Args:
        records: Measured and published ones; they are never averaged with each other.
        by: ``taxonomy``, ``method``, ``bench``, ``family`` or ``knowledge``. A record with several nodes (or kinds of
            knowledge) is listed under each.
        where: A filter (:mod:`kdflow.results.where`). Plain students stay wherever a method of their bench passes.
        against: The method that measured gains are counted from. Published gains are those of their source.
        metric: Orders the lines and is summed up.
        ablations: List published rows that take a method apart, too.
        tree: Another taxonomy.

    Raises:
        UsageError: An unknown ``by`` or ``metric``, or a filter that cannot be read.
    """
    given = tuple(records)
    _check(by, metric, given)
    known = {*METRICS, *(name for record in given for name in record.metrics)}
    passes = parse_where(where, sorted(known))
    asked = [record for record in given if passes(record) and (ablations or not record.ablation)]
    current, superseded = _current([*asked, *_plain_students(given, asked, against)])
    lines = _with_literature(_lines(current, against), given, metric)
    groups = _groups(lines, by, metric, tree or load_tree())
    return Answer(by, metric, groups, tuple(asked), superseded)


def _check(by: str, metric: str, records: Sequence[Record]) -> None:
    if by not in get_args(By):
        raise UsageError(f'results cannot be grouped by "{by}".{choices(by, get_args(By))}')
    known = {*METRICS, *(name for record in records for name in record.metrics)}
    if metric not in known:
        raise UsageError(f'no metric "{metric}".{choices(metric, known)}')


def _place(record: Record) -> tuple[str, str, str]:
    """What a gain is counted inside of: never across origins, never across benches that resolve differently."""
    return record.origin, record.bench, record.bench_hash


def _plain_students(given: Iterable[Record], asked: Sequence[Record], against: str) -> list[Record]:
    """Plain students of the asked benches which the filter left out; for published rows those that the row states."""
    places, present = {_place(record) for record in asked}, set(map(id, asked))
    plain = [record for record in given if record.origin == "measured" and record.method == against]
    missing = [record for record in plain if _place(record) in places and id(record) not in present]
    stated: dict[tuple[str, tuple[tuple[str, float], ...]], Record] = {}
    for record in asked:
        if record.origin == "published" and record.baseline:
            key = (record.bench, tuple(sorted(record.baseline.items())))
            stated.setdefault(key, _stated(record))
    return [*missing, *stated.values()]


def _stated(record: Record) -> Record:
    return replace(
        record, method=BASELINE, metrics=record.baseline, baseline={}, gain={}, variant="", ablation=False, nodes=(),
        secondary=(), rewires=(), knowledge=(), pair="", note="",
    )


def _current(records: Sequence[Record]) -> tuple[list[Record], int]:
    """The records without superseded ones: of a method in a bench the newest definition counts, of a seed its last run.

    Runs of different definitions (a changed weight in the file, a corrected formula) are no repetitions of each other.
    """
    cells: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    published = [record for record in records if record.origin == "published"]
    for record in records:
        if record.origin == "measured":
            cells[(record.bench, record.bench_hash, record.method, record.variant)].append(record)
    kept: list[Record] = []
    for runs in cells.values():
        newest = max(runs, key=lambda record: record.started).definition
        by_seed: dict[object, Record] = {}
        for number, record in enumerate(sorted(runs, key=lambda record: record.started)):
            if record.definition == newest:
                by_seed[f"run {number}" if record.seed is None else record.seed] = record
        kept += by_seed.values()
    measured = len(records) - len(published)
    return [*kept, *published], measured - len(kept)


def _lines(records: Sequence[Record], against: str) -> list[Line]:
    cells: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for number, record in enumerate(records):
        alone = str(number) if record.origin == "published" else ""
        cells[(*_place(record), record.method, record.variant, alone)].append(record)
    plain: dict[tuple[str, str, str], list[list[Record]]] = defaultdict(list)
    for runs in cells.values():
        if runs[0].method == against:
            plain[_place(runs[0])].append(runs)
    return [_line(runs, _reference(plain[_place(runs[0])])) for runs in cells.values()]


def _reference(candidates: Sequence[list[Record]]) -> list[Record] | None:
    """The runs that gains are counted from: those without overrides, or the only ones."""
    declared = [runs for runs in candidates if not runs[0].variant] or list(candidates)
    return declared[0] if len(declared) == 1 else None


def _line(runs: Sequence[Record], plain: Sequence[Record] | None) -> Line:
    mean, spread = _statistics(runs)
    newest = max(runs, key=lambda record: record.started)
    seeds = tuple(sorted(record.seed for record in runs if record.seed is not None))
    if newest.origin == "published":
        return Line(newest, 1, seeds, mean, spread, _better(newest.gain), {})
    ids = tuple(r.run_id for r in sorted(runs, key=lambda r: (r.seed is None, r.seed or 0, r.started)))
    teacher, classes = _mean([r.reached for r in runs if r.reached]), _mean([r.classes for r in runs])
    line = Line(newest, len(runs), seeds, mean, spread, {}, {}, run_ids=ids, teacher=teacher, classes=classes)
    if plain is None or plain[0].method == newest.method:
        return line
    gain, gain_spread = _gain(runs, plain)
    theirs, plain_mean = _mean([r.classes for r in plain]), _mean([r.metrics for r in plain])
    return replace(
        line, gain=_better(gain), gain_spread=gain_spread, closed=_closed(gain, plain_mean, teacher),
        class_gain={name: value - theirs[name] for name, value in classes.items() if name in theirs},
    )


def _closed(gain: Mapping[str, float], plain: Mapping[str, float], teacher: Mapping[str, float]) -> dict[str, float]:
    """Part of each metric's gap between plain student and teacher that a gain closes, in percent."""
    gaps = {name: _better({name: value - plain[name]})[name] for name, value in teacher.items() if name in plain}
    return {name: 100 * _better({name: gain[name]})[name] / gap for name, gap in gaps.items() if gap > 0 and name in gain}


def _mean(several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of the values that all of them have."""
    names = [name for name in several[0] if all(name in one for one in several)] if several else []
    return {name: statistics.fmean(one[name] for one in several) for name in names}


def _statistics(runs: Sequence[Record]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and sample standard deviation of every metric that all runs have."""
    mean = _mean([record.metrics for record in runs])
    columns = {name: [record.metrics[name] for record in runs] for name in mean}
    spread = {name: statistics.stdev(values) for name, values in columns.items() if len(values) > 1}
    return mean, spread


def _gain(runs: Sequence[Record], plain: Sequence[Record]) -> tuple[dict[str, float], dict[str, float]]:
    """Difference of means, and its deviation: over pairs where both sides ran the same seeds, else of both together."""
    (mean, spread), (plain_mean, plain_spread) = _statistics(runs), _statistics(plain)
    gain = {name: value - plain_mean[name] for name, value in mean.items() if name in plain_mean}
    ours, theirs = ({record.seed: record.metrics for record in side} for side in (runs, plain))
    if set(ours) == set(theirs) and None not in ours and len(ours) > 1:
        pairs = {name: [ours[seed][name] - theirs[seed][name] for seed in ours] for name in gain}
        return gain, {name: statistics.stdev(values) for name, values in pairs.items()}
    both = [name for name in gain if name in spread and name in plain_spread]
    return gain, {name: (spread[name] ** 2 + plain_spread[name] ** 2) ** 0.5 for name in both}


def _better(gain: Mapping[str, float]) -> dict[str, float]:
    """Signs turned so that a positive gain is an improvement."""
    return {name: -value if name in LOWER_IS_BETTER else value for name, value in gain.items()}


def _with_literature(lines: Sequence[Line], records: Iterable[Record], metric: str) -> list[Line]:
    gains: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if record.origin == "published" and not record.ablation and metric in record.gain:
            gains[record.method].append(record.gain[metric])
    return [
        replace(line, literature=(min(known), max(known)))
        if line.record.origin == "measured" and (known := gains.get(line.record.method)) else line
        for line in lines
    ]


_KEYS: Mapping[str, Callable[[Record], tuple[str, ...]]] = {
    "taxonomy": lambda record: record.nodes,
    "knowledge": lambda record: record.knowledge,
    "method": lambda record: (record.method,),
    "bench": lambda record: (record.bench,),
    "family": lambda record: (record.family,),
}


def _groups(lines: Sequence[Line], by: str, metric: str, tree: Tree) -> tuple[Group, ...]:
    """Groups by key; where keys belong to methods, plain students join every group with a method of their bench."""
    plain = [line for line in lines if line.record.is_baseline]
    found: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if not line.record.is_baseline or by in {"bench", "family"}:
            for key in _KEYS[by](line.record):
                found[key].append(line)
    if by not in {"bench", "family"}:
        for members in found.values():
            places = {_place(line.record) for line in members}
            members += [line for line in plain if _place(line.record) in places]
        known = {_place(line.record) for members in found.values() for line in members}
        alone = [line for line in plain if _place(line.record) not in known]
        if alone:
            found[BASELINE] += alone
    titles = _titles(found, by, tree)
    return tuple(_group(key, title, depth, found.get(key, []), metric) for key, title, depth in titles)


def _titles(found: Mapping[str, Sequence[Line]], by: str, tree: Tree) -> list[tuple[str, str, int]]:
    if by != "taxonomy":
        return [(key, key or "unknown", 0) for key in sorted(found)]
    listed = [node for node in tree if any(tree.covers(node.id, key) for key in found if key in tree)]
    titles = [(node.id, node.title, tree.depth(node.id)) for node in listed]
    outside = sorted(key for key in found if key not in tree)
    names = {BASELINE: "No distillation"}
    return [*titles, *((key, names.get(key, f"{key} (not in this taxonomy)"), 0) for key in outside)]


def _group(key: str, title: str, depth: int, lines: Sequence[Line], metric: str) -> Group:
    ordered = tuple(sorted(lines, key=lambda line: _order(line, metric)))
    summaries = []
    for origin in ("measured", "published"):
        gains = sorted(line.gain[metric] for line in ordered if line.record.origin == origin and metric in line.gain)
        if gains:
            summaries.append(Summary(origin, len(gains), gains[0], statistics.median(gains), gains[-1]))
    return Group(key, title, depth, ordered, tuple(summaries))


def _order(line: Line, metric: str) -> tuple[object, ...]:
    record = line.record
    sign = 1 if metric in LOWER_IS_BETTER else -1
    value = sign * line.mean[metric] if metric in line.mean else float("inf")
    return (
        record.origin, record.bench, record.bench_hash, not record.is_baseline, value, record.method, record.variant,
        record.source, tuple(sorted(line.mean.items())),
    )
