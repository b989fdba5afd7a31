"""Charts as inline SVG: no script, colours from the page's style sheet, so that they follow light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdflow.html import Html, el, join
from kdflow.tracking.store import Curve

WIDTH, SMALL = 760, 460
MINUS = "\u2212"


@dataclass(frozen=True)
class Mark:
    """A value with its spread.

    Attributes:
        label: Name shown beside it.
        value: Gain in points.
        spread: Standard deviation, None where unknown.
        literature: Range of published gains.
        link: Anchor of its details.
    """

    label: str
    value: float
    spread: float | None = None
    literature: tuple[float, float] | None = None
    link: str = ""

    @property
    def words(self) -> str:
        """Value and spread."""
        return signed(self.value) + ("" if self.spread is None else f" \u00b1 {self.spread:.2f}")

    @property
    def ends(self) -> tuple[float, float]:
        """Smallest and largest number that is drawn of it."""
        around = self.spread or 0.0
        low, high = self.literature or (self.value, self.value)
        return min(low, self.value - around), max(high, self.value + around)


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[float]:
        """At most seven round values."""
        step = _round_step((self.high - self.low) / 6)
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 6) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axis(values: Sequence[float], start: float, end: float, zero: bool = True) -> Axis:
    """A scale that holds the values (and 0, if asked) with a little room."""
    low, high = min([*values, 0.0] if zero else values), max([*values, 0.0] if zero else values)
    room = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return Axis(low - room, high + room, start, end)


def signed(value: float) -> str:
    """Two decimals with sign."""
    text = f"{value:+.2f}"
    return MINUS + text[1:] if text.startswith("-") else text


def figure(chart: Html, caption: str) -> Html:
    """A chart that scrolls where the window is narrow, with its caption."""
    return el("figure", wide(chart, caption), el("figcaption", caption))


def wide(content: Html, name: str) -> Html:
    """A part of the page that scrolls by itself, also with the keyboard."""
    return el("div", content, class_="wide", tabindex="0", role="group", aria_label=name)


def svg(width: float, height: float, title: str, *children: Html | list[Html], class_: str = "") -> Html:
    """A picture with a name for those who cannot see it."""
    return el(
        "svg", el("title", title), *children, viewBox=f"0 0 {width:g} {height:g}", width=width, height=height, role="img",
        aria_label=title, class_=f"chart {class_}".strip(),
    )


def strip(measured: Sequence[Mark], published: Sequence[float], scale: Axis, title: str) -> Html:
    """Two lanes of a taxonomy node: measured gains as dots with whiskers, below them published ones as ticks."""
    above, below = 11, 30
    ticks = [el("line", x1=scale(v), x2=scale(v), y1=below - 7, y2=below + 7, class_="published") for v in published]
    dots = [join(_whisker(scale, mark, above), _dot(scale, mark, above)) for mark in measured]
    lanes = [el("line", x1=scale.start, x2=scale.end, y1=y, y2=y, class_="grid") for y in (above, below)]
    return svg(scale.end + 10, 42, title, lanes, _zero(scale, 2, 40), ticks, dots, class_="strip")


def strip_axis(scale: Axis, words: str) -> Html:
    """The scale that the strips share."""
    labels = [el("text", _number(v), x=scale(v), y=13, text_anchor="middle") for v in scale.ticks]
    return svg(scale.end + 10, 18, words, labels, class_="strip")


def gains(marks: Sequence[Mark], metric: str, title: str) -> Html:
    """A row per method: dot and whisker for what was measured, a band for the range of published gains."""
    names = [_short(mark.label, 36) for mark in marks]
    left, right, row = 30 + 7 * max(map(len, names)), WIDTH - 110, 27
    scale = axis([end for mark in marks for end in mark.ends], left, right)
    bottom = 8 + row * len(marks)
    rows = []
    for number, mark in enumerate(marks):
        y = 8 + row * number + row / 2
        band = None
        if mark.literature:
            low, high = map(scale, mark.literature)
            band = el("rect", x=low - 2, y=y - 8, width=high - low + 4, height=16, rx=3, class_="band")
        name = el("text", names[number], x=left - 14, y=y + 4, text_anchor="end")
        rows.append(join(
            band, el("a", name, href=f"#{mark.link}") if mark.link else name, _whisker(scale, mark, y), _dot(scale, mark, y),
            el("text", mark.words, x=right + 12, y=y + 4, class_="number"),
        ))
    return svg(
        WIDTH, bottom + 40, title, _grid(scale, 8, bottom), _zero(scale, 8, bottom), rows,
        el("text", f"gain in {metric}", x=(left + right) / 2, y=bottom + 36, text_anchor="middle", class_="soft"),
    )


@dataclass(frozen=True)
class Point:
    """A method between its cost and its gain."""

    label: str
    cost: float
    gain: float
    spread: float | None = None
    link: str = ""


def scatter(points: Sequence[Point], cost: str, metric: str, title: str) -> Html:
    """Gain over cost; labels are moved apart where they would meet."""
    left, right, top, bottom = 64, WIDTH - 20, 14, 330
    horizontal = axis([p.cost for p in points], left, right - 60, zero=False)
    ends = [p.gain + sign * (p.spread or 0.0) for p in points for sign in (-1, 1)]
    vertical = axis(ends, bottom, top)
    rows = [_level(vertical, left, right), _columns(horizontal, top, bottom)]
    zero = el("line", x1=left, x2=right, y1=vertical(0), y2=vertical(0), class_="zero")
    places = _apart([(horizontal(p.cost), vertical(p.gain)) for p in points])
    marks = [
        join(
            None if p.spread is None else el(
                "line", x1=horizontal(p.cost), x2=horizontal(p.cost), y1=vertical(p.gain - p.spread),
                y2=vertical(p.gain + p.spread), class_="whisker",
            ),
            el("circle", cx=horizontal(p.cost), cy=vertical(p.gain), r=5, class_="measured"),
            el("a", _name(p.label, x, y + 4, right), href=f"#{p.link}"),
        )
        for p, (x, y) in zip(points, places, strict=True)
    ]
    words = [
        el("text", cost, x=(left + right) / 2, y=bottom + 38, text_anchor="middle", class_="soft"),
        el(
            "text", f"gain in {metric}", transform=f"translate(16 {(top + bottom) / 2:g}) rotate(-90)", text_anchor="middle",
            class_="soft",
        ),
    ]
    return svg(WIDTH, bottom + 46, title, *rows, zero, marks, words)


def areas(shares: Mapping[str, Curve], colours: Mapping[str, int], title: str) -> Html:
    """Shares over steps, stacked to 100 %."""
    left, right, top, bottom = 50, SMALL - 14, 8, 170
    steps = [step for step, _ in next(iter(shares.values()))]
    across = Axis(steps[0], steps[-1] if steps[-1] > steps[0] else steps[0] + 1, left, right)
    up = Axis(0, 1, bottom, top)
    floor, layers = [0.0] * len(steps), []
    for name, curve in shares.items():
        roof = [low + share for low, (_, share) in zip(floor, curve, strict=True)]
        outline = [*zip(steps, roof, strict=True), *reversed(list(zip(steps, floor, strict=True)))]
        path = "M" + "L".join(f"{across(x):g} {up(min(y, 1.0)):g}" for x, y in outline) + "Z"
        layers.append(el("path", el("title", name), d=path, class_=f"part part{colours[name]}"))
        floor = roof
    levels = [el("text", f"{round(100 * v)} %", x=left - 6, y=up(v) + 4, text_anchor="end") for v in (0, 0.5, 1)]
    marks = [el("text", f"{v:g}", x=across(v), y=bottom + 16, text_anchor="middle") for v in across.ticks if v == int(v)]
    words = el("text", "step", x=(left + right) / 2, y=bottom + 31, text_anchor="middle", class_="soft")
    return svg(SMALL, bottom + 38, title, layers, levels, marks, words)


def _whisker(scale: Axis, mark: Mark, y: float) -> Html | None:
    if mark.spread is None:
        return None
    low, high = scale(mark.value - mark.spread), scale(mark.value + mark.spread)
    return el("line", x1=low, x2=high, y1=y, y2=y, class_="whisker")


def _dot(scale: Axis, mark: Mark, y: float) -> Html:
    return el("circle", el("title", f"{mark.label} {mark.words}"), cx=scale(mark.value), cy=y, r=5, class_="measured")


def _zero(scale: Axis, top: float, bottom: float) -> Html:
    return el("line", x1=scale(0), x2=scale(0), y1=top, y2=bottom, class_="zero")


def _grid(scale: Axis, top: float, bottom: float) -> Html:
    return join(_columns(scale, top, bottom))


def _columns(scale: Axis, top: float, bottom: float) -> list[Html]:
    return [
        join(
            el("line", x1=scale(v), x2=scale(v), y1=top, y2=bottom, class_="grid"),
            el("text", _number(v), x=scale(v), y=bottom + 16, text_anchor="middle"),
        )
        for v in scale.ticks
    ]


def _level(scale: Axis, left: float, right: float) -> list[Html]:
    return [
        join(
            el("line", x1=left, x2=right, y1=scale(v), y2=scale(v), class_="grid"),
            el("text", _number(v), x=left - 8, y=scale(v) + 4, text_anchor="end"),
        )
        for v in scale.ticks
    ]


def _apart(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Label places, moved down where one would lie on another."""
    done: list[tuple[float, float]] = []
    order = sorted(range(len(places)), key=lambda i: places[i][1])
    found: dict[int, tuple[float, float]] = {}
    for index in order:
        x, y = places[index]
        while any(abs(x - ox) < 130 and abs(y - oy) < 13 for ox, oy in done):
            y += 4
        done.append((x, y))
        found[index] = (x, y)
    return [found[index] for index in range(len(places))]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough * 0.999)


def _number(value: float) -> str:
    return f"{value:g}".replace("-", MINUS)


def _name(label: str, x: float, y: float, end: float) -> Html:
    """A label to the right of its point, or to the left where it would leave the picture."""
    text = _short(label, 40)
    inside = x + 10 + 7 * len(text) < end
    return el("text", text, x=x + 10 if inside else x - 10, y=y, text_anchor=None if inside else "end")


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "\u2026"
