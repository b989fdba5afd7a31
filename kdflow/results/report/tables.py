"""Tables of the page."""

from __future__ import annotations

from collections.abc import Sequence

from kdflow.html import Html, el
from kdflow.results.query import Line
from kdflow.results.report.charts import signed, wide


def table(head: Sequence[str], rows: Sequence[Html], caption: str, words: int = 1, numbers: int | None = None) -> Html:
    """A table that scrolls where the window is narrow.

    Args:
        head: Names of the columns.
        rows: ``tr`` elements.
        caption: What the table is about.
        words: How many columns on the left are text.
        numbers: How many after them are numbers; all others unless told.
    """
    last = len(head) if numbers is None else words + numbers
    cells = [el("th", name, scope="col", class_="num" if words <= i < last else None) for i, name in enumerate(head)]
    body = el("table", el("caption", caption), el("thead", el("tr", cells)), el("tbody", list(rows)))
    return wide(body, caption)


def number(text: str) -> Html:
    """A right-aligned cell."""
    return el("td", text, class_="num")


def value(line: Line, metric: str) -> Html:
    """Mean and spread of a metric."""
    spread = f" \u00b1 {line.spread[metric]:.2f}" if metric in line.spread else ""
    return number(f"{line.mean[metric]:.2f}{spread}" if metric in line.mean else "")


def gain(line: Line, metric: str) -> Html:
    """Gain and spread, coloured where it lies beyond one deviation."""
    if metric not in line.gain:
        return number("")
    size, spread = line.gain[metric], line.gain_spread.get(metric)
    clear = spread is not None and abs(size) > spread
    colour = ("up" if size > 0 else "down") if clear else ""
    return el("td", signed(size) + ("" if spread is None else f" \u00b1 {spread:.2f}"), class_=f"num {colour}".strip())


def between(low: float, high: float) -> str:
    """A range of gains."""
    return signed(low) if low == high else f"{signed(low)} to {signed(high)}"
