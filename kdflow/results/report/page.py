"""The page: its frame, and what it is about."""

from __future__ import annotations

from importlib.resources import files

from kdflow.html import Html, el
from kdflow.results.record import BASELINE, METRICS
from kdflow.results.report.gather import Facts
from kdflow.results.report.sections import cost, gains, losses, runs
from kdflow.results.report.taxonomy import taxonomy
from kdflow.results.table import caption_of

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""The page loads nothing and runs nothing."""


def page(facts: Facts) -> str:
    """The whole document: no script, nothing loaded, drawings embedded."""
    sections = [
        ("taxonomy", "Taxonomy", taxonomy(facts)), ("gains", "Gains", gains(facts)), ("cost", "Cost", cost(facts)),
        ("losses", "Losses", losses(facts)), ("runs", "Runs", runs(facts)),
    ]
    style = files("kdflow.results.report").joinpath("style.css").read_text(encoding="utf-8")
    head = el(
        "head", el("meta", charset="utf-8"), el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY), el("title", "Distillation results"),
        el("link", rel="icon", href="data:,"), el("style", Html(style)),
    )
    links = el("ul", [el("li", el("a", title, href=f"#{key}")) for key, title, _ in sections])
    body = el(
        "body", el("a", "Skip to the results", href="#taxonomy", class_="skip"), _header(facts),
        el("nav", links, aria_label="Sections"),
        el("main", [el("section", content, id=key, aria_label=title) for key, title, content in sections]),
        el("footer", el("p", caption_of(facts.taxonomy)), el("p", f"Made by kdflow, {facts.made}.")),
    )
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


def _header(facts: Facts) -> Html:
    methods = {entry.line.record.method for entry in facts.entries if not entry.line.record.is_baseline}
    tiles = [
        ("measured runs", facts.count("measured")), ("methods measured", len(methods)),
        ("bench" if len(facts.benches) == 1 else "benches", len(facts.benches)),
        ("published results", facts.count("published")),
    ]
    against = "the plain student" if facts.against == BASELINE else facts.against
    chosen = el("p", "Only records with ", el("code", facts.where), ".") if facts.where else None
    words = (
        f"Gains in {facts.metric} over {against} of the same bench, mean and standard deviation over seeds. {facts.metric} is "
        f"{METRICS.get(facts.metric, 'a metric of these runs')}. Measured and published numbers stand side by side and are never "
        "averaged together."
    )
    return el(
        "header", el("h1", "Distillation results"), el("p", words, class_="soft"), chosen,
        el("ul", [el("li", el("b", str(count)), name) for name, count in tiles], class_="facts"),
    )
