"""Hashes of plain data, files and code. Code counts by its syntax: comments, docstrings and layout do not."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kdflow.graph.node import Graph
from kdflow.operation import OPS
from kdflow.ports import DETECTORS

PACKAGE = "kdflow"
PARTS = (f"{PACKAGE}.detectors.", f"{PACKAGE}.functional.", f"{PACKAGE}.ops.")
"""Packages whose code counts: what a detector or an operation computes. What only carries them does not."""


def digest(parts: Mapping[str, Any]) -> str:
    """A 16-digit hash of plain data, independent of key order."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The parts as they are read back from a file."""
    found: dict[str, Any] = json.loads(json.dumps(parts, default=str))
    return found


def file_hash(file: Path) -> str:
    """Hash of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def known_file_hash(file: Path) -> str:
    """The same, read again only when the file's time or size has changed."""
    seen = file.stat()
    return _hash_of(file.absolute(), seen.st_mtime_ns, seen.st_size)


def content_hash(path: Path) -> str:
    """Hash of a file's bytes, or of the names and bytes of all files below a folder."""
    if not path.is_dir():
        return known_file_hash(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return digest({str(file.relative_to(path)): known_file_hash(file) for file in files})


@cache
def _hash_of(file: Path, _changed: int, _size: int) -> str:
    return file_hash(file)


def detector_code(name: str, own: Sequence[str] = ()) -> str:
    """Hash of the code that builds a detector, and of the detectors' and functional modules that it imports.

    Args:
        name: Registered name.
        own: Modules of a user's own that make it (:attr:`kdflow.ports.Detector.code`).
    """
    return code_hash([DETECTORS.get(name).make.__module__, *own])


def op_code(graph: Graph) -> str:
    """Hash of the code of the ops in a graph and of the functions they use."""
    used = sorted({node.op.name for node in graph.ordered() if node.op is not None})
    return code_hash([OPS.get(name).target.__module__ for name in used] + [f"{PACKAGE}.functional.reduce"])


def code_hash(modules: Iterable[str]) -> str:
    """Hash of what modules, and those of :data:`PARTS` that they import, directly or not, compute.

    Comments, docstrings and layout do not count. A plugin's file counts like a module.
    """
    return _code_hash(tuple(sorted(set(modules))))


@cache
def _code_hash(modules: tuple[str, ...]) -> str:
    files: set[Path] = set()
    waiting = [path for name in modules if (path := _file(name)) is not None]
    while waiting:
        path = waiting.pop()
        if path not in files:
            files.add(path)
            waiting.extend(found for name in _code(path).imports if (found := _file(name)) is not None)
    return digest({"code": sorted(_code(path).syntax for path in files)})


@dataclass(frozen=True)
class _Code:
    """Hash of a source file's syntax, and what counts of its imports."""

    syntax: str
    imports: tuple[str, ...]


@cache
def _file(module: str) -> Path | None:
    if module in sys.modules:
        file = inspect.getsourcefile(sys.modules[module]) if hasattr(sys.modules[module], "__file__") else None
        return Path(file) if file else None
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(found.origin) if found and found.origin else None


@cache
def _code(path: Path) -> _Code:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return _Code(syntax_of(tree), tuple(name for name in _imported(tree) if name.startswith(PARTS)))


def syntax_of(tree: ast.AST) -> str:
    """Hash of a syntax tree without docstrings; changes ``tree``."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and body:
            node.body = [part for part in body if not _is_text(part)] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def _is_text(part: ast.stmt) -> bool:
    """A text that stands by itself: a docstring, of a module, class, function or attribute."""
    return isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)


def _imported(tree: ast.AST) -> Sequence[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names
