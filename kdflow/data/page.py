"""What ``kdflow data check --page`` writes: one HTML file that loads nothing, with counts, findings, pictures and their boxes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping

import numpy as np

from kdflow.data.annotations import Annotations
from kdflow.data.check import DataReport, SplitReport
from kdflow.data.findings import Finding
from kdflow.data.images import ImageFaultError, read_pixels
from kdflow.html import Html, el

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""The page loads nothing and runs nothing."""
SHOWN = 8
"""Pictures shown of each split."""
SIDE = 480
"""Longest side of a picture on the page, pixels."""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1c2024;
  background: #fafaf8; }
table { border-collapse: collapse; }
td, th { padding: .15rem .8rem .15rem 0; text-align: right; border-bottom: 1px solid #dfe2e5; }
td:first-child, th:first-child { text-align: left; } .fault { color: #a1301f; } li { margin: .3rem 0; overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figure svg { width: 100%; height: auto; }
figcaption { color: #5c656e; font-size: .85rem; overflow-wrap: anywhere; }
svg text { font: 12px system-ui, sans-serif; paint-order: stroke; stroke: #000; stroke-width: 3px; fill: #fff; }
"""


def page(report: DataReport, tables: Mapping[str, Annotations], name: str) -> str:
    """The whole document.

    Args:
        report: What the check found.
        tables: Annotations of every split.
        name: What was checked.
    """
    body = [
        el("h1", f"Data: {name}"),
        el("p", f"{report.format}, {len(report.classes)} classes, input {report.geometry.words}. {report.verdict}."),
        _counts(report),
        _findings(report.across),
        *(_split(split, tables[split.split]) for split in report.splits),
    ]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("title", f"Data: {name}"),
        el("style", Html(STYLE)),
    )
    return f"<!doctype html>\n{el('html', head, el('body', body), lang='en')}\n"


def _counts(report: DataReport) -> Html:
    """Boxes per class and split."""
    head = el("tr", el("th", "class"), [el("th", split.split) for split in report.splits])
    rows = [
        el("tr", el("td", name), [el("td", str(split.per_class[name])) for split in report.splits])
        for name in report.classes
    ]
    total = el("tr", el("th", "boxes"), [el("th", str(split.boxes)) for split in report.splits])
    images = el("tr", el("th", "images"), [el("th", str(split.images)) for split in report.splits])
    return el("table", head, rows, total, images)


def _findings(findings: tuple[Finding, ...]) -> Html:
    return el("ul", [el("li", str(finding), class_="fault" if finding.fatal else None) for finding in findings])


def _split(split: SplitReport, table: Annotations) -> Html:
    pictures = [_figure(table, index) for index in chosen(table)]
    return el(
        "section",
        el("h2", split.split),
        el("p", split.sizes),
        _findings(split.findings),
        el("div", pictures, class_="pictures"),
    )


def chosen(table: Annotations) -> list[int]:
    """Images to be shown: for each class the first that has it, then some evenly spaced; at most :data:`SHOWN`."""
    found = [int(table.owners[np.flatnonzero(table.labels == label)[0]]) for label in np.unique(table.labels)]
    step = max(1, len(table) // SHOWN)
    return sorted(list(dict.fromkeys([*found[:SHOWN], *range(0, len(table), step)]))[:SHOWN])


def _figure(table: Annotations, index: int) -> Html:
    name = table.names[index]
    try:
        image = read_pixels(table.files[index], table.pixels)
    except ImageFaultError as error:
        return el("figure", el("figcaption", f"{name}: {error}"))
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    source = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
    height, width = table.sizes[index].tolist()
    scale = image.width / width if width > 0 else 1.0
    boxes = list(_boxes(table, index, scale))
    drawing = el(
        "svg",
        el("image", href=source, width=image.width, height=image.height),
        boxes,
        viewBox=f"0 0 {image.width} {image.height}",
        role="img",
        aria_label=name,
    )
    return el("figure", drawing, el("figcaption", f"{name}, {width}x{height}, {len(boxes)} boxes"))


def _boxes(table: Annotations, index: int, scale: float) -> Iterator[Html]:
    rows = table.rows(index)
    for box, label, ignored in zip(
        table.boxes[rows] * scale, table.labels[rows].tolist(), table.ignored[rows].tolist()
    ):
        if not np.isfinite(box).all():
            continue
        left, top, width, height = box.tolist()
        colour = f"hsl({label * 137 % 360} 90% 60%)"  # the golden angle keeps neighbours apart
        sides = {"x": left, "y": top, "width": max(width, 0.0), "height": max(height, 0.0)}
        dashes = "4 3" if ignored else None
        frame = el("rect", fill="none", stroke=colour, stroke_width=2.0, stroke_dasharray=dashes, **sides)
        yield el("g", frame, el("text", table.classes[label], x=left + 2, y=top + 12))
