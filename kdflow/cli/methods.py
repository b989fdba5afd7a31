"""``kdflow methods``: the methods that come with kdflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdflow.cli.console import columns, say, say_json
from kdflow.cli.options import JsonOption

if TYPE_CHECKING:
    from kdflow.results.published import PublishedFile
    from kdflow.spec.method import Method


def methods(json: JsonOption = False) -> None:
    """List the methods that come with kdflow.

    Where they act, what their formulas follow, where they were published.
    """
    found = shipped()
    if json:
        say_json(found)
        return
    rows = [
        (
            m["method"],
            ", ".join(m["nodes"]) or "-",
            m["fidelity"],
            f"{m['venue']} {m['year'] or ''}".strip() or "-",
            m["title"],
        )
        for m in found
    ]
    say(columns(rows, head=("method", "acts at", "follows", "published", "title")))


def shipped() -> list[dict[str, Any]]:
    """Facts of every method in ``specs/``.

    Nodes are those of the literature's file, else those that the terms read. A variant that wraps a method has the nodes of that
    one and those of its own terms.
    """
    from kdflow.resources import specs_folder
    from kdflow.results.published import load_published
    from kdflow.spec.resolve import load_method

    published = load_published()
    finder = {path.stem: path for path in sorted(specs_folder().glob("*.yaml"))}
    methods = [load_method(path, finder.__getitem__).resolve() for path in finder.values()]
    return [_facts(method, published.get(method.method) or published.get(method.wraps or "")) for method in methods]


def _facts(method: Method, published: PublishedFile | None) -> dict[str, Any]:
    return {
        "method": method.method,
        "title": method.title,
        "fidelity": method.fidelity,
        "bench": method.bench,
        "venue": method.paper.venue,
        "year": method.paper.year,
        "arxiv": method.paper.arxiv,
        "code": method.paper.code,
        "nodes": _nodes(method, published),
        "knowledge": list(published.knowledge) if published else [],
        "terms": [name for name, _ in method.distillation_terms.items()],
        "search": list(method.search),
    }


def _nodes(method: Method, published: PublishedFile | None) -> list[str]:
    if published is not None and published.method == method.method:
        return list(published.nodes)
    known = published.nodes if published is not None else ()
    side = 1 if known and known[0].startswith("transformer") else 0
    found = [_node(method, term.arguments.get("student"), side) for term in method.distillation_terms.values()]
    return list(dict.fromkeys([*known, *(node for node in found if node)]))


def _one_side(value: Any) -> Any:
    return value["student"] if isinstance(value, dict) and "student" in value else value


def _node(method: Method, reference: Any, side: int) -> str | None:
    """Taxonomy node of the port that a reference comes from, found by reading the method's nodes; nothing is built."""
    from kdflow.spec.reference import parse_reference
    from kdflow.standard_ports import STANDARD_PORTS

    for _ in range(len(method.nodes) + 1):
        text = reference[0] if isinstance(reference, (list, tuple)) and reference else reference
        try:
            parsed = parse_reference(str(text))
        except ValueError:
            return None
        if parsed.rest in STANDARD_PORTS:
            return STANDARD_PORTS[parsed.rest].node[side]
        entry = method.nodes.get(parsed.base)
        given = entry.arguments if entry else {}
        reference = next((_one_side(given[key]) for key in ("student", "features", *given) if key in given), None)
    return None
