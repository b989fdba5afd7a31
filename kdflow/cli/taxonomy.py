"""``kdflow taxonomy``: the places of a detector at which distillation acts, and the methods that act there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kdflow.cli.console import say, say_json
from kdflow.cli.options import JsonOption

if TYPE_CHECKING:
    from kdflow.taxonomy import Tree

Long = Annotated[bool, typer.Option("--long", "-l", help="Also print definitions and boundary decisions.")]


def taxonomy(long: Long = False, json: JsonOption = False) -> None:
    """Print the taxonomy with its methods.

    A * marks methods that kdflow can run.
    """
    from kdflow.resources import specs_folder
    from kdflow.results.published import load_published
    from kdflow.taxonomy import load_tree

    tree = load_tree()
    runs = {path.stem for path in specs_folder().glob("*.yaml")}
    placed = {node.id: [slug for slug, file in load_published().items() if node.id in file.nodes] for node in tree}
    if json:
        say_json(
            [
                {
                    "id": node.id,
                    "parent": node.parent,
                    "title": node.title,
                    "definition": node.definition,
                    "boundaries": list(node.boundaries),
                    "methods": [{"method": m, "spec": m in runs} for m in placed[node.id]],
                }
                for node in tree
            ]
        )
        return
    say(_text(tree, placed, runs, long))


def _text(tree: Tree, placed: dict[str, list[str]], runs: set[str], long: bool) -> str:
    from textwrap import wrap

    lines = []
    for node in tree:
        indent = "  " * tree.depth(node.id)
        lines.append(f"{indent}{node.id}  {node.title}")
        paragraphs = [node.definition, *(f"- {b}" for b in node.boundaries)] if long else []
        if placed[node.id]:
            paragraphs.append(" ".join(m + ("*" if m in runs else "") for m in placed[node.id]))
        for text in paragraphs:
            lines += wrap(
                text, 110, initial_indent=f"{indent}    ", subsequent_indent=f"{indent}    ", break_on_hyphens=False
            )
    lines += ["", "* has a spec in kdflow", f"Source: {' '.join(tree.source.split())}"]
    return "\n".join(lines)
