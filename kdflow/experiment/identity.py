"""What makes two runs the same: a hash of everything that determines the result, the code of ops and detectors included."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kdflow.graph.node import Graph
from kdflow.operation import OPS
from kdflow.ports import DETECTORS

PACKAGE = "kdflow"


def digest(parts: Mapping[str, Any]) -> str:
    """A 16-digit hash of plain data, independent of key order."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def detector_code(names: Iterable[str]) -> str:
    """Hash of the source that builds these detectors and of everything of kdflow that it imports."""
    return code_hash([DETECTORS.get(name).make.__module__ for name in sorted(set(names))])


def op_code(graph: Graph) -> str:
    """Hash of the source of the ops in a graph and of the functions they use."""
    used = sorted({node.op.name for node in graph.ordered() if node.op is not None})
    return code_hash([OPS.get(name).target.__module__ for name in used] + [f"{PACKAGE}.functional.reduce"])


def code_hash(modules: Iterable[str]) -> str:
    """Hash of modules and of all kdflow modules they import, directly or not. A plugin's file counts like a module."""
    files: set[Path] = set()
    waiting = [path for name in modules if (path := _file(name)) is not None]
    while waiting:
        path = waiting.pop()
        if path not in files:
            files.add(path)
            waiting.extend(found for name in _imports(path) if (found := _file(name)) is not None)
    sources = sorted(path.read_bytes() for path in files)
    return hashlib.sha256(b"\0".join(sources)).hexdigest()[:16]


@cache
def _file(module: str) -> Path | None:
    import sys

    if module in sys.modules:
        file = inspect.getsourcefile(sys.modules[module]) if hasattr(sys.modules[module], "__file__") else None
        return Path(file) if file else None
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(found.origin) if found and found.origin else None


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """Modules of kdflow that a source file imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if name.startswith(f"{PACKAGE}."))
