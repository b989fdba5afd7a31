"""Names that a method gives to its own parts: what they may look like, and which are taken."""

from __future__ import annotations

import re
from collections.abc import Collection

from kdflow.graph.terms import is_word
from kdflow.ports import BATCH_PORTS
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import Method

_NAME = re.compile(r"[A-Za-z_][\w-]*")
RESERVED = frozenset({"student", *(port.split(".")[0] for port in BATCH_PORTS)})


def check_names(method: Method, document: Document) -> None:
    """Report names that cannot be referred to, that are taken, or that mean two things at once."""
    groups: dict[str, Collection[str]] = {
        "modules": method.modules, "prepare": method.prepare, "nodes": method.nodes, "terms": method.distillation_terms,
    }
    for group, entries in groups.items():
        for name in entries:
            if not _NAME.fullmatch(name):
                document.report((group, name), f'"{name}" is no name; use letters, digits, _ and -, and begin with a letter')
    for name in method.prepare:
        if name in method.nodes:
            document.report(("nodes", name), f'"{name}" is the name of a preparation as well; choose another')
        if name in RESERVED:
            document.report(("prepare", name), f'"{name}" is the name of a detector or batch value; choose another')
    for name, term in method.distillation_terms.items():
        for index, part in enumerate(term.reduce.over):
            if isinstance(part, str) and is_word(part) and (part in method.nodes or part in method.prepare):
                path: Steps = ("terms", name, "reduce", "over", index)
                document.report(path, f'"{part}" is an axis or a word of over:, and a node as well; give the node another name')
