"""An answer as text, CSV, JSON, Markdown, or a table for the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kdflow.errors import UsageError, choices
from kdflow.escape import csv_cell, markdown, one_line
from kdflow.html import el
from kdflow.results.query import Answer, Group, Line, Summary
from kdflow.results.record import METRICS

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    "bench", "method", "origin", "AP", "AP50", "VOC mAP@0.5", "gain", "gap closed", "teacher", "published gain", "seeds",
    "source",
)
SECOND_HAND = "*"
NUMERIC = frozenset({"AP", "AP50", "VOC mAP@0.5", "gain", "gap closed", "teacher", "published gain", "seeds"})


def render(answer: Answer, form: str = "table", classes: bool = False) -> str:
    """The answer as text.

    Args:
        answer: What :func:`kdflow.results.query.query` returned.
        form: ``table`` (aligned columns), ``csv``, ``json`` or ``markdown``.
        classes: In the table, AP by size and by class below every line; JSON always has them.

    Raises:
        UsageError: An unknown form.
    """
    if form not in _FORMS:
        raise UsageError(f'results cannot be written as "{form}".{choices(form, _FORMS)}')
    return _text(answer, classes) if form == "table" else _FORMS[form](answer)


def rich_table(answer: Answer, classes: bool = False) -> Table:
    """The answer for a terminal: groups, inside them benches, inside them methods.

    Sources and empty columns are left out; the other forms have the sources.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    rows = _nested(answer, classes)
    columns = [name for name in _used_columns(answer) if name != "source"]
    table = Table(
        title=_title(answer), caption=caption_of(answer), title_justify="left", caption_justify="left", box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0), pad_edge=False,
    )
    table.add_column("place, bench, method", overflow="fold", min_width=30)
    for name in columns:
        side: Literal["left", "right"] = "right" if name in NUMERIC else "left"
        table.add_column(name, justify=side, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(Text(row.first, style=_STYLES[row.sort]), *(Text(row.cells.get(name, "")) for name in columns))
    return table


_STYLES: Mapping[str, str] = {
    "group": "bold", "sum": "italic", "bench": "cyan", "plain": "dim", "method": "", "gap": "", "part": "dim",
}


@dataclass(frozen=True)
class _Row:
    """A line of the nested listing; ``first`` is indented and holds the place, the bench or the method."""

    sort: str
    first: str
    cells: Mapping[str, str]


def _class_rows(line: Line) -> list[_Row]:
    """AP by size, then by class, each with its gain; all of them are AP, whatever the query's metric."""
    sizes = [name for name in ("AP_S", "AP_M", "AP_L") if name in line.mean]
    numbers = [
        *((_SIZES[name], _measure(line, name), line.gain.get(name)) for name in sizes),
        *((name, _number(value), line.class_gain.get(name)) for name, value in line.classes.items()),
    ]
    return [
        _Row("part", f"      {one_line(name)}", {"AP": value, "gain": "" if gain is None else _signed(gain)})
        for name, value, gain in numbers
    ]


_SIZES: Mapping[str, str] = {"AP_S": "small objects", "AP_M": "medium objects", "AP_L": "large objects"}


def _nested(answer: Answer, classes: bool) -> list[_Row]:
    rows: list[_Row] = []
    for group in answer.groups:
        rows += [_Row("gap", "", {}), _Row("group", _heading(group), {})]
        rows += [_Row("sum", f"  {_sum(summary)}", {}) for summary in group.summaries]
        previous: tuple[str, ...] = ()
        for line in group.lines:
            place = (line.record.origin, line.record.bench, line.record.bench_hash)
            if place != previous:
                rows.append(_Row("bench", f"  {one_line(line.record.place)}", {}))
            previous = place
            sort = "plain" if line.record.is_baseline else "method"
            rows.append(_Row(sort, f"    {one_line(line.label)}", _cells(line, answer.metric)))
            rows += _class_rows(line) if classes else ()
    return rows


def _used_columns(answer: Answer) -> list[str]:
    cells = [_cells(line, answer.metric) for _, line in answer.lines]
    return [name for name in COLUMNS if name not in {"bench", "method"} and any(row[name] for row in cells)]


def _title(answer: Answer) -> str:
    return f"Results by {answer.by}, gain in {answer.metric} over the plain student of the same bench"


def caption_of(answer: Answer) -> str:
    """What a reader must know of the numbers."""
    words = [f"{len(answer.records)} records. Measured and published numbers are never averaged together."]
    if answer.superseded:
        words.append(f"{answer.superseded} older run(s) of the same method, bench and seed are left out.")
    if any(not line.record.verified for _, line in answer.lines):
        words.append(f"{SECOND_HAND} known second hand, or of a doubtful setting.")
    return " ".join(words)


def _heading(group: Group) -> str:
    name = f"{group.key}  {group.title}" if group.title != group.key else group.key
    return "  " * group.depth + one_line(name)


def _sum(summary: Summary) -> str:
    middle = f", median {_signed(summary.median)}" if summary.lines > 1 else ""
    lines = f"{summary.lines} line{'s' if summary.lines != 1 else ''}"
    return f"{summary.origin} {_range(summary.low, summary.high)}{middle} ({lines})"


def _cells(line: Line, metric: str) -> dict[str, str]:
    """What a person reads, by column."""
    record = line.record
    known = line.literature
    cells = {
        "bench": record.place,
        "method": line.label,
        "origin": record.origin + ("" if record.verified else SECOND_HAND),
        "AP": _measure(line, "AP"),
        "AP50": _measure(line, "AP50"),
        "VOC mAP@0.5": _measure(line, "voc_ap50"),
        "gain": _gain(line, metric),
        "gap closed": f"{line.closed[metric]:.0f} %" if metric in line.closed else "",
        "teacher": _number(line.teacher[metric]) if metric in line.teacher else "",
        "published gain": "" if known is None else _range(*known),
        "seeds": "" if record.origin == "published" else str(line.runs),
        "source": record.source,
    }
    return {name: one_line(words) for name, words in cells.items()}


def _range(low: float, high: float) -> str:
    return _signed(low) if low == high else f"{_signed(low)} to {_signed(high)}"


def _number(value: float) -> str:
    """Two decimals, the last one only where it is not 0."""
    text = f"{value:.2f}"
    return text[:-1] if text.endswith("0") else text


def _signed(value: float) -> str:
    text = _number(value)
    return text if text.startswith("-") else f"+{text}"


def _measure(line: Line, name: str) -> str:
    if name not in line.mean:
        return ""
    spread = f" ± {_number(line.spread[name])}" if name in line.spread else ""
    return _number(line.mean[name]) + spread


def _gain(line: Line, metric: str) -> str:
    """The gain in the query's metric, else in another one that is then named."""
    name = metric if metric in line.gain else next((other for other in METRICS if other in line.gain), None)
    if name is None:
        return ""
    spread = f" ± {_number(line.gain_spread[name])}" if name in line.gain_spread else ""
    return _signed(line.gain[name]) + spread + ("" if name == metric else f" {name}")


def _text(answer: Answer, classes: bool = False) -> str:
    """The nested listing in aligned columns; empty columns are left out."""
    rows, columns = _nested(answer, classes), _used_columns(answer)
    first = max([0, *(len(row.first) for row in rows if row.cells)])
    widths = {name: max([len(name), *(len(row.cells.get(name, "")) for row in rows)]) for name in columns}

    def aligned(start: str, cells: Mapping[str, str]) -> str:
        words = [cells.get(n, "").rjust(w) if n in NUMERIC else cells.get(n, "").ljust(w) for n, w in widths.items()]
        return "  ".join([start.ljust(first), *words]).rstrip() if cells else start.rstrip()

    head = [_title(answer), "", aligned("", {name: name for name in columns})] if columns else [_title(answer)]
    return "\n".join([*head, *(aligned(row.first, row.cells) for row in rows), "", caption_of(answer)]) + "\n"


def _markdown(answer: Answer) -> str:
    lines = [f"**{_title(answer)}**", ""]
    for group in answer.groups:
        lines += [f"{'#' * (3 + group.depth)} {markdown(_heading(group).strip())}", ""]
        if group.summaries:
            lines += ["; ".join(map(_sum, group.summaries)), ""]
        if group.lines:
            lines.append(_markdown_row(COLUMNS))
            lines.append(_markdown_row(["---:" if name in NUMERIC else "---" for name in COLUMNS]))
            lines += [_markdown_row(list(map(markdown, _cells(line, answer.metric).values()))) for line in group.lines] + [""]
    return "\n".join([*lines, caption_of(answer)]) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _flat(group: Group, line: Line) -> dict[str, Any]:
    """Everything a machine may want of one line, without the metrics."""
    record = line.record
    return {
        "group": group.key, "origin": record.origin, "bench": record.bench, "bench_variant": record.bench_variant,
        "method": record.method,
        "variant": record.variant, "dataset": record.dataset, "family": record.family, "detector": record.detector,
        "teacher": record.teacher, "student": record.student, "pair": record.pair, "nodes": list(record.nodes),
        "knowledge": list(record.knowledge), "schedule": record.schedule, "runs": line.runs, "seeds": list(line.seeds),
        "verified": record.verified, "source": record.source, "note": record.note, "run_id": record.run_id,
    }


def facts(group: Group, line: Line) -> dict[str, Any]:
    """Everything known of one line, as plain data."""
    return {
        **_flat(group, line), "mean": dict(line.mean), "spread": dict(line.spread), "gain": dict(line.gain),
        "gain_spread": dict(line.gain_spread), "published_gain": line.literature,
        "teacher_metrics": dict(line.teacher), "gap_closed": dict(line.closed), "classes": dict(line.classes),
        "class_gain": dict(line.class_gain),
    }


def as_html(answer: Answer) -> str:
    """The answer for a notebook: groups, inside them benches, inside them methods."""
    columns = [name for name in _used_columns(answer) if name != "source"]
    head = el("tr", el("th", ""), [el("th", name) for name in columns])
    left = "white-space: pre; text-align: left"
    rows = [
        el("tr", el("td", row.first, style=left), [el("td", row.cells.get(name, "")) for name in columns])
        for row in _nested(answer, classes=False)
    ]
    return el("div", el("p", el("b", _title(answer))), el("table", head, rows), el("p", caption_of(answer)))


def _json(answer: Answer) -> str:
    groups = [
        {
            "key": group.key, "title": group.title, "depth": group.depth,
            "summaries": [vars(summary) for summary in group.summaries],
            "lines": [facts(group, line) for line in group.lines],
        }
        for group in answer.groups
    ]
    head = {"by": answer.by, "metric": answer.metric, "records": len(answer.records), "superseded": answer.superseded}
    return json.dumps({**head, "groups": groups}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _csv(answer: Answer) -> str:
    """One row per group and line; per metric the mean, its deviation and the gain. Lists are joined by blanks.

    What a spreadsheet would take for a formula has an apostrophe before it.
    """
    found = {name for _, line in answer.lines for name in (*line.mean, *line.gain)}
    metrics = [*(name for name in METRICS if name in found), *sorted(found - set(METRICS))]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for number, (group, line) in enumerate(answer.lines):
        flat = {key: _plain(value) for key, value in _flat(group, line).items()}
        for name in metrics:
            flat[name] = line.mean.get(name, "")
            flat[f"{name}_std"] = line.spread.get(name, "")
            flat[f"gain_{name}"] = line.gain.get(name, "")
            flat[f"teacher_{name}"] = line.teacher.get(name, "")
            flat[f"gap_closed_{name}"] = line.closed.get(name, "")
        if number == 0:
            writer.writerow(map(csv_cell, flat))
        writer.writerow(map(csv_cell, flat.values()))
    return out.getvalue()


def _plain(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


_FORMS: Mapping[str, Callable[[Answer], str]] = {"table": _text, "csv": _csv, "json": _json, "markdown": _markdown}
