"""A static page of a folder of comparisons: a leaderboard per bench, gains per node, and what would change a verdict."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from kdflow.compare.content import EntryRow, File, VerdictRow
from kdflow.compare.verify import faults_of, read_file, warnings_of
from kdflow.errors import UsageError
from kdflow.files import write_text
from kdflow.html import Html, el, join
from kdflow.results.published import published_records
from kdflow.results.record import METRICS
from kdflow.results.report.charts import Mark, Point, figure, gains, scatter, signed
from kdflow.results.report.page import POLICY
from kdflow.results.report.tables import between, number, table
from kdflow.taxonomy import load_tree

MINUS = "\u2212"
COLOURS = {"better": "up", "worse": "down"}


@dataclass(frozen=True)
class Shown:
    """A file on the page.

    Attributes:
        key: Anchor.
        source: Name of the file.
        file: Its content.
        published: Method -> smallest and largest published gain in the comparison's metric.
    """

    key: str
    source: str
    file: File
    published: Mapping[str, tuple[float, float]]

    @property
    def metric(self) -> str:
        """What is compared."""
        return self.file.comparison.settings.metric

    def verdicts(self) -> dict[str, VerdictRow]:
        """Entrant -> verdict against the plain student."""
        plain = self.file.comparison.entries[0].name
        return {row.entry: row for row in self.file.comparison.verdicts if row.against == plain}

    def ranked(self) -> list[tuple[EntryRow, VerdictRow]]:
        """Methods and controls, the largest gain first, those without one last."""
        found = self.verdicts()
        pairs = [(entry, found[entry.name]) for entry in self.file.comparison.entries if entry.name in found]
        return sorted(pairs, key=lambda pair: -(pair[1].mean if pair[1].mean is not None else float("-inf")))


def write_page(folder: Path) -> tuple[Path, list[str]]:
    """Write ``index.html`` of the comparisons in ``folder``; its path, and which files were refused and why.

    Raises:
        UsageError: The folder holds no comparison that passes :func:`kdflow.compare.verify.faults_of`.
    """
    shown, refused = read_folder(folder)
    if not shown:
        reasons = "".join(f"\n{words}" for words in refused)
        raise UsageError(f"{folder} holds no file of kdflow compare that can be shown{reasons}")
    return write_text(folder / "index.html", page(shown, refused)), refused


def read_folder(folder: Path) -> tuple[list[Shown], list[str]]:
    """The comparisons of a folder, by bench; what does not pass is told and not shown."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder")
    shown, refused = list[Shown](), list[str]()
    for path in sorted(folder.glob("*.json")):
        try:
            file = read_file(path)
        except UsageError as error:
            refused += str(error).splitlines()[:3]
            continue
        if faults := faults_of(file):
            refused.append(f"{path}: not shown: {faults[0]}")
            continue
        metric = file.comparison.settings.metric
        shown.append(Shown(f"c{len(shown)}", path.name, file, published_gains(metric)))
    return sorted(shown, key=lambda one: (one.file.comparison.name, one.source)), refused


def published_gains(metric: str) -> dict[str, tuple[float, float]]:
    """Method -> smallest and largest gain of the literature."""
    found: dict[str, list[float]] = {}
    for record in published_records():
        if metric in record.gain and not record.ablation:
            found.setdefault(record.method, []).append(record.gain[metric])
    return {method: (min(known), max(known)) for method, known in found.items()}


def page(shown: Sequence[Shown], refused: Sequence[str] = ()) -> str:
    """The whole document: no script, nothing loaded."""
    style = files("kdflow.results.report").joinpath("style.css").read_text(encoding="utf-8")
    head = el(
        "head", el("meta", charset="utf-8"), el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY), el("title", "Distillation methods compared"),
        el("link", rel="icon", href="data:,"), el("style", Html(style)),
    )
    links = [("nodes", "By taxonomy node"), *((one.key, one.file.comparison.name) for one in shown)]
    sections = [el("section", _nodes(shown), id="nodes"), *(el("section", _comparison(one), id=one.key) for one in shown)]
    body = el(
        "body", el("a", "Skip to the results", href="#nodes", class_="skip"), _header(shown),
        el("nav", el("ul", [el("li", el("a", name, href=f"#{key}")) for key, name in links]), aria_label="Sections"),
        el("main", sections), _footer(refused),
    )
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


def _header(shown: Sequence[Shown]) -> Html:
    entries = [entry for one in shown for entry in one.file.comparison.entries]
    tiles = [
        ("comparisons", len(shown)), ("benches", len({one.file.comparison.bench for one in shown})),
        ("methods", len({entry.method for entry in entries if entry.kind == "method"})),
        ("measured runs", sum(len(entry.runs) for entry in entries)),
        ("trials of tuning", sum(len(entry.trials) for entry in entries)),
    ]
    words = (
        "Within a comparison all entries have the same teacher, data, first weights and images, and the same number of trials to "
        "tune their values, the plain student's too. Gains are paired by seed, over the plain student, with the 95 % interval of "
        "the mean. An entry is better or worse where that difference would be found by chance in fewer than 5 % of such tables "
        "(Holm's correction over the methods, and over the controls); else it is undecided, which is no proof of equality."
    )
    return el(
        "header", el("h1", "Distillation methods compared"), el("p", words, class_="soft"),
        el("ul", [el("li", el("b", str(count)), name) for name, count in tiles], class_="facts"),
    )


def _footer(refused: Sequence[str]) -> Html:
    lines = [el("p", f"Not shown: {words}") for words in refused]
    return el("footer", lines, el("p", "Made by kdflow compare --page; every file passes kdflow compare --verify."))


def _nodes(shown: Sequence[Shown]) -> Html:
    """Every taxonomy node with what was measured at it, and what was published."""
    tree = load_tree()
    parts = [_node(node.id, node.title, shown) for node in tree if node.id in {leaf.id for leaf in tree.leaves}]
    words = el("p", "Where a method has terms at several nodes, it stands at each of them: its gain is that of the whole method.")
    return join(el("h2", "Gains by taxonomy node"), words, parts)


def _node(node: str, title: str, shown: Sequence[Shown]) -> Html:
    found = [
        (one, entry, row) for one in shown for entry, row in one.ranked() if entry.kind == "method" and node in entry.nodes
    ]
    rows_of = [record for record in published_records() if node in record.nodes and not record.ablation]
    published = sorted(record.gain["AP"] for record in rows_of if "AP" in record.gain)
    literature = (
        f"Published: {len(published)} gains in AP, {between(published[0], published[-1])}, median "
        f"{signed(statistics.median(published))}." if published else "Published: nothing."
    )
    rows = [
        el(
            "tr", el("th", el("a", entry.name, href=f"#{one.key}"), scope="row"), el("td", one.file.comparison.name),
            _gain(row), _verdict(row), number(_literature(one, entry)),
        )
        for one, entry, row in found
    ]
    head = ("method", "bench", "gain, 95 % interval", "verdict", "published gain")
    measured = table(head, rows, f"Measured at {node}", words=2) if rows else el("p", "Measured: nothing yet.", class_="soft")
    return el("div", el("h3", f"{node}: {title}"), el("p", literature, class_="soft"), measured)


def _comparison(one: Shown) -> Html:
    comparison, settings = one.file.comparison, one.file.comparison.settings
    facts = (
        f"{comparison.title or comparison.bench}. Student {comparison.student} ({comparison.family}), teacher "
        f"{comparison.teacher or 'none'}, data {comparison.dataset}. {settings.in_words}. "
        f"{settings.metric} is {METRICS[settings.metric]}."
    )
    taught = [f"{told[0].upper()}{told[1:]}." for told in comparison.teachers_in_words]
    return join(
        el("h2", comparison.name), el("p", " ".join([facts, *taught])),
        [el("p", f"Worth knowing: {words}.") for words in warnings_of(one.file)],
        _chart(one), _leaderboard(one), _rivals(one), _cost(one), _turns(one), _tuned(one), _audit(one), _left_out(one),
        el("p", "Once more: ", el("code", settings.command), ". File: ", el("code", one.source), ", content ",
           el("code", one.file.content), "."),
    )


def _chart(one: Shown) -> Html:
    marks = [
        Mark(entry.name, row.mean, _half(row), one.published.get(entry.method) if entry.kind == "method" else None)
        for entry, row in one.ranked() if row.mean is not None
    ]
    if not marks:
        return el("p", "No entry has a seed that finished.", class_="soft")
    name = f"Gain in {one.metric} over the plain student on {one.file.comparison.name}"
    return figure(
        gains(marks, one.metric, name),
        f"{name}: mean over paired seeds and its 95 % interval. A band behind a dot is the range of the gains published for that "
        "method, on other data and other detectors.",
    )


def _leaderboard(one: Shown) -> Html:
    comparison = one.file.comparison
    plain = comparison.entries[0]
    rows = [_row(one, plain, None), *(_row(one, entry, row) for entry, row in one.ranked())]
    head = (
        "entry", "acts at", one.metric, "gain, 95 % interval", "verdict", "p, corrected", "published gain", "ms per step", "MiB",
        "added weights",
    )
    return table(head, rows, f"Measured on the test split of {comparison.name}, mean and standard deviation over seeds", words=2)


def _row(one: Shown, entry: EntryRow, row: VerdictRow | None) -> Html:
    cost = one.file.costs.get(entry.name)
    return el(
        "tr", el("th", entry.name, scope="row", class_="name"), el("td", ", ".join(entry.nodes) or entry.kind),
        number(entry.in_words(one.metric)),
        _gain(row) if row else number(""), _verdict(row) if row else number(""),
        number("" if row is None or row.mean is None else f"{row.adjusted:.3f}"), number(_literature(one, entry)),
        number("" if cost is None or cost.step_ms is None else f"{cost.step_ms:.1f}"),
        number("" if cost is None or cost.memory_mib is None else f"{cost.memory_mib:.1f}"),
        number(f"{entry.added_parameters:,}" if entry.added_parameters else ""),
        class_=None if entry.kind == "method" else "plain",
    )


def _literature(one: Shown, entry: EntryRow) -> str:
    known = one.published.get(entry.method) if entry.kind == "method" else None
    return between(*known) if known else ""


def _gain(row: VerdictRow) -> Html:
    return number(row.in_words.replace("-", MINUS))


def _verdict(row: VerdictRow) -> Html:
    return el("td", row.verdict, class_=f"num {COLOURS.get(row.verdict, '')}".strip())


def _half(row: VerdictRow) -> float | None:
    return None if row.low is None or row.high is None else (row.high - row.low) / 2


def _rivals(one: Shown) -> Html | None:
    """Methods against a named method."""
    plain = one.file.comparison.entries[0].name
    rows = [
        el(
            "tr", el("th", row.entry, scope="row"), el("td", row.against), _gain(row), _verdict(row),
            number(f"{row.adjusted:.3f}"),
        )
        for row in one.file.comparison.verdicts if row.against != plain
    ]
    head = ("method", "against", "difference, 95 % interval", "verdict", "p, corrected")
    return join(el("h3", "Against a method"), table(head, rows, "Paired by seed", words=2)) if rows else None


def _cost(one: Shown) -> Html | None:
    costs = one.file.costs
    plain = costs.get(one.file.comparison.entries[0].name)
    if plain is None or not plain.step_ms:
        return None
    points = [
        Point(entry.name, cost.step_ms / plain.step_ms, row.mean, _half(row))
        for entry, row in one.ranked()
        if row.mean is not None and (cost := costs.get(entry.name)) is not None and cost.step_ms is not None
    ]
    if not points:
        return None
    name = f"Gain over step cost on {one.file.comparison.name}"
    where = ", ".join(f"{key} {value}" for key, value in sorted(one.file.measured_on.items()))
    picture = scatter(points, "step time, as a multiple of the plain student's", one.metric, name)
    return join(el("h3", "Gain against cost"), figure(picture, f"{name}. Step times of one process: {where}."))


def _turns(one: Shown) -> Html:
    rows = [el("tr", el("th", row.entry, scope="row"), _verdict(row), el("td", row.turn)) for _, row in one.ranked()]
    head = ("entry", "verdict", "it would change with")
    return join(el("h3", "What would change this verdict"), table(head, rows, "By entry", words=3))


def _tuned(one: Shown) -> Html:
    def lines() -> Iterator[Html]:
        for entry in one.file.comparison.entries:
            words = ", ".join(f"{path} = {value}" for path, value in entry.values.items()) or "as declared"
            chosen = "" if entry.chosen is None else f"trial {entry.chosen} of {len(entry.trials)}"
            yield el("tr", el("th", entry.name, scope="row"), el("td", chosen or entry.note), el("td", el("code", words)))

    content = table(("entry", "chosen", "values"), list(lines()), "Tuned on the validation split", words=3)
    return el("details", el("summary", "tuned values"), content)


def _audit(one: Shown) -> Html:
    rows = [
        el(
            "tr", el("th", row.what, scope="row"), el("td", "yes" if row.same else "no"),
            el("td", "; ".join(f"{name}: {reason}" for name, reason in row.meant.items())),
            el("td", "" if row.same else "; ".join(f"{value}: {', '.join(names)}" for value, names in row.values.items())),
        )
        for row in one.file.comparison.audit
    ]
    head = ("what", "the same", "meant to differ", "differences")
    return el("details", el("summary", "audit: what every entry saw"), table(head, rows, "As it lay in memory", words=4))


def _left_out(one: Shown) -> Html | None:
    left = one.file.comparison.left_out
    if not left:
        return None
    rows = [el("tr", el("th", name, scope="row"), el("td", reason)) for name, reason in left.items()]
    return el("details", el("summary", f"left out: {len(left)}"), table(("name", "why"), rows, "Left out", words=2))
