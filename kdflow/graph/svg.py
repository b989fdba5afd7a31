"""A directed graph without circles as an SVG picture: boxes in columns, each behind what it needs."""

from __future__ import annotations

from html import escape

import networkx as nx

COLOURS = {"student": "#dbeafe", "teacher": "#ffedd5", "op": "#f3f4f6", "term": "#dcfce7", "batch": "#ffffff"}


def layered_svg(view: nx.DiGraph[str]) -> str:
    """A self-contained picture, what needs nothing on the left.

    Args:
        view: Its nodes have a ``label`` of one or more lines and a ``group``, one of ``COLOURS``.
    """
    columns = [sorted(generation) for generation in nx.topological_generations(view)]
    width, height, gap_x, gap_y = 190, 58, 60, 18
    places: dict[str, tuple[float, float]] = {}
    tallest = max((len(c) for c in columns), default=1)
    for x, column in enumerate(columns):
        column.sort(key=lambda name: sum(places[p][1] for p in view.predecessors(name)) / max(1, view.in_degree(name)))
        offset = (tallest - len(column)) * (height + gap_y) / 2
        for y, name in enumerate(column):
            places[name] = (20 + x * (width + gap_x), 20 + offset + y * (height + gap_y))
    total_x, total_y = 40 + len(columns) * (width + gap_x) - gap_x, 40 + tallest * (height + gap_y) - gap_y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_x} {total_y}" width="{total_x}" height="{total_y}" '
        'font-family="ui-sans-serif, system-ui, sans-serif" font-size="11">',
        f'<rect width="{total_x}" height="{total_y}" fill="white"/>',
    ]
    for a, b in view.edges:
        (x1, y1), (x2, y2) = places[a], places[b]
        x1, y1, y2 = x1 + width, y1 + height / 2, y2 + height / 2
        middle = (x1 + x2) / 2
        parts.append(f'<path d="M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}" fill="none" stroke="#9ca3af"/>')
    for name, data in view.nodes(data=True):
        parts.append(_svg_box(places[name], (width, height), str(data["label"]), COLOURS[data["group"]]))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _svg_box(place: tuple[float, float], size: tuple[int, int], label: str, colour: str) -> str:
    (x, y), (width, height) = place, size
    lines = [line if len(line) <= 30 else line[:29] + "…" for line in label.split("\n")]
    top = y + height / 2 - (len(lines) - 1) * 7 + 4
    words = "".join(
        f'<text x="{x + width / 2}" y="{top + i * 14}" text-anchor="middle" '
        f'font-weight="{600 if i == 0 else 400}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    return f'<g><rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{colour}" stroke="#6b7280"/>{words}</g>'
