"""The taxonomy tree with what was measured and what was published at each node."""

from __future__ import annotations

from collections.abc import Sequence

from kdflow.html import Html, el, join
from kdflow.results.query import Group, Line
from kdflow.results.record import METRICS
from kdflow.results.report.charts import Axis, Mark, axis, signed, strip, strip_axis
from kdflow.results.report.gather import Facts
from kdflow.results.report.tables import between, gain, number, table, value
from kdflow.taxonomy import Node, load_tree

PUBLISHED = "Published, with the gain over the plain student of the same source"


def taxonomy(facts: Facts) -> Html:
    """Every node of the tree; gains of all nodes share one scale."""
    groups = {group.key: group for group in facts.taxonomy.groups}
    gains = [line.gain[facts.metric] for group in groups.values() for line in group.lines if facts.metric in line.gain]
    scale = axis(gains, 8, 424)
    tree = load_tree()
    roots = [
        el("li", el("h3", root.title), el("p", root.definition, class_="soft"), el("ul", [
            el("li", _node(node, groups.get(node.id), facts.metric, scale), id=f"node-{node.id.replace('/', '-')}")
            for node in tree.children(root.id)
        ]))
        for root in tree.roots
    ]
    ruler = el("div", el("div", _legend()), strip_axis(scale, f"scale of gains in {facts.metric}"), class_="node")
    return join(
        el("h2", "Where the gains are"),
        el("p", "A method stands at every node whose student tensors it compares. The gain is that of the whole method: a method "
           "with several nodes shows the same gain at each, and kdflow ablate tells them apart."),
        ruler, el("ul", roots, class_="tree"),
    )


def _legend() -> Html:
    dot = el("svg", el("circle", cx=6, cy=6, r=5, class_="measured"), viewBox="0 0 12 12", aria_hidden="true")
    tick = el("svg", el("line", x1=6, x2=6, y1=0, y2=12, class_="published"), viewBox="0 0 12 12", aria_hidden="true")
    return el("ul", el("li", dot, "measured \u00b1 deviation"), el("li", tick, "published"), class_="legend")


def _node(node: Node, group: Group | None, metric: str, scale: Axis) -> Html:
    title = el("div", el("h4", node.title, " ", el("code", node.id)), el("p", node.definition, class_="soft"))
    lines = [line for line in (group.lines if group else ()) if not line.record.is_baseline]
    if not lines:
        return el("div", title, el("p", "nothing measured, nothing published", class_="soft"), class_="node")
    measured = [line for line in lines if line.record.origin == "measured"]
    published = [line for line in lines if line.record.origin == "published"]
    marks = [
        Mark(f"{line.label}, {line.record.place}", line.gain[metric], line.gain_spread.get(metric))
        for line in measured if metric in line.gain
    ]
    ticks = [line.gain[metric] for line in published if metric in line.gain]
    words = [_words("measured", measured, [mark.value for mark in marks]), _words("published", published, ticks)]
    picture = strip(marks, ticks, scale, "; ".join(words)) if marks or ticks else None
    side = el("div", picture, [el("p", text, class_="measure") for text in words])
    return join(el("div", title, side, class_="node"), _measured_table(measured, metric), _published_table(published, metric))


def _words(origin: str, lines: Sequence[Line], values: Sequence[float]) -> str:
    """``published: 3 methods in 7 settings, +0.40 to +2.10``."""
    if not lines:
        return f"{origin}: nothing"
    methods = len({line.record.method for line in lines})
    text = f"{origin}: {_count(methods, 'method')} in {_count(len(lines), 'setting')}"
    return f"{text}, {between(min(values), max(values))}" if values else text


def _count(many: int, word: str) -> str:
    return f"{many} {word}" + ("" if many == 1 else "s")


def _measured_table(lines: Sequence[Line], metric: str) -> Html | None:
    if not lines:
        return None
    rows = [
        el("tr", el("th", line.label, scope="row"), el("td", line.record.place), value(line, metric), gain(line, metric),
           number(str(line.runs)))
        for line in lines
    ]
    head = ("method", "bench", metric, "gain", "runs")
    return el("details", el("summary", f"measured here ({len(rows)})"), table(head, rows, "Measured", words=2))


def _published_table(lines: Sequence[Line], metric: str) -> Html | None:
    if not lines:
        return None
    rows = [_published_row(line, metric) for line in lines]
    head = ("method", "setting", "result", "gain", "further results", "source")
    return el("details", el("summary", f"published here ({len(rows)})"), table(head, rows, PUBLISHED, 2, 2))


def _published_row(line: Line, metric: str) -> Html:
    """One metric leads: the page's, or the first that the source states."""
    record = line.record
    known = [name for name in METRICS if name in line.mean or name in line.gain]
    first = metric if metric in known else known[0]
    doubt = None if record.verified else el("span", " second hand", class_="soft")
    result = f"{line.mean[first]:.1f}" if first in line.mean else ""
    named = result if first == metric else f"{first} {result}".strip()
    return el(
        "tr", el("th", line.label, scope="row"), el("td", record.place, doubt, class_="setting"), number(named),
        number(signed(line.gain[first]) if first in line.gain else ""),
        el("td", ", ".join(_further(line, name) for name in known if name != first)), el("td", record.source, class_="setting"),
    )


def _further(line: Line, name: str) -> str:
    result = f"{name} {line.mean[name]:.1f}" if name in line.mean else name
    return f"{result} ({signed(line.gain[name])})" if name in line.gain else result
