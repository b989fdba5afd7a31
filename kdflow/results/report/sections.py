"""Gains per bench, cost, shares of the loss, and the runs themselves."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence

from kdflow.html import Html, el, join
from kdflow.results.report.charts import Mark, Point, areas, figure, scatter, signed, wide
from kdflow.results.report.charts import gains as gains_chart
from kdflow.results.report.gather import Entry, Facts
from kdflow.results.report.tables import between, gain, number, table, value
from kdflow.taxonomy import load_tree
from kdflow.tracking.store import Curve

NOTHING = el("p", "Nothing to show: no finished run passes.", class_="soft")


def gains(facts: Facts) -> Html:
    """Per bench: a chart, and the same as a table."""
    return join(el("h2", "Gains on each bench"), [_bench(facts, entries) for entries in facts.benches.values()] or NOTHING)


def _bench(facts: Facts, entries: Sequence[Entry]) -> Html:
    marks = [
        Mark(e.line.label, e.line.gain[facts.metric], e.line.gain_spread.get(facts.metric), e.line.literature, e.key)
        for e in entries if facts.metric in e.line.gain
    ]
    marks.sort(key=lambda mark: -mark.value)
    name = entries[0].line.record.place
    band = " The band behind a dot is the range of the gains published for that method."
    banded = band if any(mark.literature for mark in marks) else ""
    chart = figure(
        gains_chart(marks, facts.metric, f"Gain in {facts.metric} of each method on {name}"),
        f"Gain in {facts.metric} on {name}, mean and standard deviation over seeds.{banded}",
    ) if marks else el("p", "No gain is known here: a method and the plain student of the same bench are needed.", class_="soft")
    return join(el("h3", name), chart, _bench_table(facts, entries))


def _bench_table(facts: Facts, entries: Sequence[Entry]) -> Html:
    metrics = [m for m in dict.fromkeys((facts.metric, "AP", "AP50", "voc_ap50")) if any(m in e.line.mean for e in entries)]
    rows = [
        el(
            "tr", el("th", el("a", e.line.label, href=f"#{e.key}"), scope="row"),
            el("td", ", ".join(e.line.record.nodes) or "none"),
            [value(e.line, metric) for metric in metrics], gain(e.line, facts.metric),
            number(f"{e.line.closed[facts.metric]:.0f} %" if facts.metric in e.line.closed else ""),
            number(f"{e.line.teacher[facts.metric]:.2f}" if facts.metric in e.line.teacher else ""),
            number(between(*e.line.literature) if e.line.literature else ""), number(str(e.line.runs)),
            class_="plain" if e.line.record.is_baseline else None,
        )
        for e in entries
    ]
    names = {"voc_ap50": "VOC mAP@0.5"}
    head = (
        "method", "acts at", *(names.get(m, m) for m in metrics), f"gain in {facts.metric}", "gap closed", "teacher",
        "published gain", "runs",
    )
    return table(head, rows, "Measured on the test split, mean \u00b1 standard deviation", words=2)


def _classes(entry: Entry) -> Html | None:
    """AP by size and class, with what the plain student lacks of it."""
    line = entry.line
    sizes = {"AP_S": "small objects", "AP_M": "medium objects", "AP_L": "large objects"}
    numbers = [
        *((words, line.mean[name], line.gain.get(name)) for name, words in sizes.items() if name in line.mean),
        *((name, ap, line.class_gain.get(name)) for name, ap in line.classes.items()),
    ]
    if not line.classes:
        return None
    rows = [
        el("tr", el("th", name, scope="row"), number(f"{ap:.2f}"), number("" if more is None else signed(more)))
        for name, ap, more in numbers
    ]
    return el("details", el("summary", "AP by size and class"), table(("", "AP", "gain in AP"), rows, "AP by size and class"))


def cost(facts: Facts) -> Html:
    """Step time against gain, relative to the plain student where that is known."""
    charts = [chart for entries in facts.benches.values() if (chart := _cost(facts, entries)) is not None]
    words = el("p", "What a training step costs beside what it brings.")
    return join(el("h2", "Step cost against gain"), words, charts or NOTHING)


def _cost(facts: Facts, entries: Sequence[Entry]) -> Html | None:
    plain = next((e.step_ms for e in entries if e.line.record.method == facts.against and not e.line.record.variant), None)
    known = [e for e in entries if e.step_ms is not None and facts.metric in e.line.gain]
    if not known:
        return None
    unit = 1.0 if plain is None else plain
    points = [
        Point(e.line.label, (e.step_ms or 0.0) / unit, e.line.gain[facts.metric], e.line.gain_spread.get(facts.metric), e.key)
        for e in known
    ]
    bench = entries[0].line.record.place
    axis = "milliseconds per step" if plain is None else "step time, as a multiple of the plain student's"
    rows = [
        el("tr", el("th", e.line.label, scope="row"), number(f"{e.step_ms:.0f}"),
           number("" if plain is None or e.step_ms is None else f"{e.step_ms / plain:.2f}"), gain(e.line, facts.metric))
        for e in [e for e in entries if e.step_ms is not None]
    ]
    caption = f"Median time of a training step on {bench}; runs on different machines do not compare"
    numbers = table(("method", "ms per step", "multiple", f"gain in {facts.metric}"), rows, caption)
    picture = scatter(points, axis, facts.metric, f"Gain over step cost on {bench}")
    chart = figure(picture, f"{bench}: gain in {facts.metric} over the cost of a training step.")
    return join(el("h3", bench), chart, el("details", el("summary", "as a table"), numbers))


def losses(facts: Facts) -> Html:
    """Shares of the loss over time, run by run."""
    shown = [entry for entry in facts.entries if entry.shares and len(next(iter(entry.shares.values()))) > 1]
    words = el(
        "p", "How much of the total loss comes from the detector and from each taxonomy node, step by step, after weights and "
        "schedules. A node whose share vanishes early teaches little; one that fills the picture drowns the "
        "detector's own losses.",
    )
    figures = el("div", [_shares(entry) for entry in shown], class_="pairs")
    return join(el("h2", "Loss shares per node"), words, figures if shown else NOTHING)


def colours() -> dict[str, int]:
    """Part of the loss -> colour; a node has the same one everywhere."""
    return {"det": 0, **{node.id: 1 + i for i, node in enumerate(load_tree().leaves)}}


def _shares(entry: Entry) -> Html:
    record = entry.records[0]
    colour = colours()
    known = {name: colour.get(name, 0) for name in entry.shares}
    names = [
        el("li", el("svg", el("rect", width=12, height=12, class_=f"part{known[name]}"), viewBox="0 0 12 12", aria_hidden="true"),
           _part(name), f" {100 * curve[-1][1]:.0f} % at the end")
        for name, curve in entry.shares.items()
    ]
    seed = "" if record.seed is None else f", seed {record.seed}"
    title = f"{entry.line.label} on {record.place}{seed}"
    chart = areas(entry.shares, known, f"Shares of the loss: {title}")
    return el(
        "figure", wide(chart, title), el("ul", names, class_="legend"),
        el("figcaption", title, "."), el("details", el("summary", "as a table"), _share_table(entry.shares)),
    )


def _part(name: str) -> str:
    return "detector's own losses" if name == "det" else name


def _share_table(shares: Mapping[str, Curve]) -> Html:
    """Five steps, the first and the last among them."""
    length = len(next(iter(shares.values())))
    chosen = sorted({round(i * (length - 1) / 4) for i in range(5)})
    rows = [
        el("tr", el("th", _part(name), scope="row"), [number(f"{100 * curve[i][1]:.1f} %") for i in chosen])
        for name, curve in shares.items()
    ]
    head = ("part", *(f"step {next(iter(shares.values()))[i][0]}" for i in chosen))
    return table(head, rows, "Share of the total loss")


def runs(facts: Facts) -> Html:
    """Every measured line with its runs, its spec and its drawing."""
    words = el("p", "What was run, as it was run: every value filled in, ready to be run again.")
    return join(el("h2", "Runs"), words, [_run(facts, entry) for entry in facts.entries] or NOTHING)


def _run(facts: Facts, entry: Entry) -> Html:
    line = entry.line
    shown = f"{facts.metric} {line.mean[facts.metric]:.2f}" if facts.metric in line.mean else ""
    summary = el("summary", f"{line.label} on {line.record.place} ", el("span", shown, class_="soft"))
    metrics = list(line.mean)
    rows = [
        el("tr", el("th", "" if r.seed is None else str(r.seed), scope="row"), el("td", el("code", r.run_id)),
           el("td", r.started[:16].replace("T", " ")), [number(f"{r.metrics[m]:.2f}" if m in r.metrics else "") for m in metrics])
        for r in entry.records
    ]
    found = table(("seed", "run", "started (UTC)", *metrics), rows, "Runs", words=3)
    return el("details", summary, _words(entry), found, _classes(entry), _drawing(entry), _spec(entry), class_="card")


def _words(entry: Entry) -> Html:
    """Facts in a line; links lead here, inside the folded part, because a browser then unfolds it."""
    record = entry.line.record
    words = [
        ("student", f"{record.detector} {record.student}".strip()), ("teacher", record.teacher),
        ("acts at", ", ".join(record.nodes)), ("rewires", ", ".join(record.rewires)), ("compares", ", ".join(record.knowledge)),
        ("formulas follow", record.fidelity),
        ("step", "" if entry.step_ms is None else f"{entry.step_ms:.0f} ms"),
        ("memory of the GPU", "" if entry.peak_memory_mib is None else f"{entry.peak_memory_mib:.0f} MiB at most"),
    ]
    return el("p", "; ".join(f"{name}: {text}" for name, text in words if text), id=entry.key, class_="target")


def _drawing(entry: Entry) -> Html | None:
    """As a picture, not as markup: a file from a store cannot run anything then."""
    if not entry.graph:
        return None
    source = "data:image/svg+xml;base64," + b64encode(entry.graph.encode()).decode()
    words = f"Graph of {entry.line.label}: its places in teacher and student, operations and terms"
    image = el("img", src=source, alt=words, loading="lazy")
    box = el("div", image, class_="drawing", tabindex="0", role="group", aria_label=words)
    return join(el("h4", "Graph"), box)


def _spec(entry: Entry) -> Html | None:
    if not entry.spec:
        return None
    return el("details", el("summary", "spec, with every default filled in"), el("pre", entry.spec, tabindex="0"))
