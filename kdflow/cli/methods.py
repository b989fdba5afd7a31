"""``kdflow methods``: the methods that come with kdflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdflow.cli.console import columns, say, say_json
from kdflow.cli.options import JsonOption

if TYPE_CHECKING:
    from kdflow.results.published import PublishedFile


def methods(json: JsonOption = False) -> None:
    """List the methods that come with kdflow: where they act, what they follow, where they were published."""
    found = shipped()
    if json:
        say_json(found)
        return
    rows = [
        (m["method"], ", ".join(m["nodes"]) or "-", m["fidelity"], f"{m['venue']} {m['year'] or ''}".strip() or "-", m["title"])
        for m in found
    ]
    say(columns(rows, head=("method", "acts at", "follows", "published", "title")))


def shipped() -> list[dict[str, Any]]:
    """Facts of every method in ``specs/``. Nodes are those of the literature's file; a test compares them with the compiled terms."""
    from kdflow.resources import specs_folder
    from kdflow.results.published import load_published
    from kdflow.spec.resolve import load_method

    published = load_published()
    finder = {path.stem: path for path in sorted(specs_folder().glob("*.yaml"))}
    return [_facts(load_method(path, finder.__getitem__).resolve(), published.get(slug)) for slug, path in finder.items()]


def _facts(method: Any, published: PublishedFile | None) -> dict[str, Any]:
    return {
        "method": method.method, "title": method.title, "fidelity": method.fidelity, "bench": method.bench,
        "venue": method.paper.venue, "year": method.paper.year, "arxiv": method.paper.arxiv, "code": method.paper.code,
        "nodes": list(published.nodes) if published else [], "knowledge": list(published.knowledge) if published else [],
        "terms": [name for name, _ in method.distillation_terms.items()], "search": list(method.search),
    }
