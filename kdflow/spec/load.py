"""YAML with line marks: strict, bounded, and able to say where every value stands."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.error import MarkedYAMLError

from kdflow.errors import Fault, SpecError

Steps = tuple[str | int, ...]
Mark = tuple[int, int]

MAX_BYTES = 1_000_000
MAX_DEPTH = 20


class _Loader(yaml.SafeLoader):
    """Scalars as in YAML 1.2: only true/false are booleans, 1e-4 is a number, and no dates."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|false|False)$", "tTfF"),
    ("null", r"^(?:~|null|Null|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
    ("float", r"^[-+]?\.(?:inf|Inf|nan|NaN)$", "-+."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    word = loader.construct_scalar(node).lower().lstrip("+")
    return float(word.replace(".inf", "inf").replace(".nan", "nan"))


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:float", _number)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


@dataclass
class Document:
    """A parsed YAML file.

    Attributes:
        file: Name shown in messages.
        data: Plain dicts, lists and scalars.
        marks: Path of every value -> (line, column), both 1-based.
        faults: What was wrong with the text itself.
    """

    file: str
    data: dict[str, Any] = field(default_factory=dict)
    marks: dict[Steps, Mark] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def mark(self, path: Steps) -> Mark:
        """Place of ``path``, or of its nearest known ancestor."""
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks.get(path, (1, 1))

    def fault(self, path: Steps, problem: str) -> Fault:
        """A fault at ``path``; not recorded."""
        line, column = self.mark(path)
        return Fault(self.file, line, column, dotted(path), problem)

    def report(self, path: Steps, problem: str) -> None:
        """Record a fault at ``path``."""
        self.faults.append(self.fault(path, problem))

    def check(self) -> None:
        """Raise SpecError when faults were recorded."""
        if self.faults:
            raise SpecError(self.faults)


def dotted(path: Steps) -> str:
    """``("terms", "a", "over", 1)`` -> ``terms.a.over[1]``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else (f".{step}" if text else str(step))
    return text


def read(path: str | Path) -> Document:
    """Parse a file; raises SpecError when it cannot be read at all."""
    shown = str(path)
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise SpecError([Fault(shown, 0, 0, "", f"cannot be read: {error.strerror or error}")]) from None
    if len(raw) > MAX_BYTES:
        raise SpecError([Fault(shown, 0, 0, "", f"larger than {MAX_BYTES} bytes; a spec is a page of text")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError([Fault(shown, 0, 0, "", f"not UTF-8 text (byte {error.start})")]) from None
    return parse(text, shown)


def parse(text: str, file: str = "<text>") -> Document:
    """Parse YAML text into a document; raises SpecError for text that is no YAML mapping."""
    document = Document(file)
    loader = _Loader(text)
    try:
        _refuse_unsafe(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise SpecError([Fault(file, line, column, "", f"not valid YAML: {error.problem or error}")]) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise SpecError([Fault(file, 1, 1, "", f"not valid YAML: {error}".splitlines()[0])]) from None
    finally:
        loader.dispose()
    if root is None:
        raise SpecError([Fault(file, 1, 1, "", 'the file is empty; "kdflow new NAME" writes one to start from')])
    if not isinstance(root, yaml.MappingNode):
        place = (root.start_mark.line + 1, root.start_mark.column + 1)
        raise SpecError([Fault(file, *place, "", "the document must be a mapping of keys to values")])
    document.data = _convert(root, (), document, loader)
    document.check()
    return document


class _RefusedError(MarkedYAMLError):
    """A YAML feature that specs do not use."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)


def _refuse_unsafe(text: str) -> None:
    """Refuse aliases (and with them exponential growth) and deep nesting before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _RefusedError("anchors and aliases are not used in specs; use like:", event.start_mark)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _RefusedError(f"nested deeper than {MAX_DEPTH}", event.start_mark)


def _convert(node: yaml.Node, path: Steps, document: Document, loader: _Loader) -> Any:
    """The plain value of a YAML node; marks and faults go into the document."""
    document.marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.rpartition(":")[2] not in _TAGS:
        document.report(path, f'tag "{node.tag}" is not allowed; write plain values')
        return None
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, document, loader)
    if isinstance(node, yaml.SequenceNode):
        return [_convert(item, (*path, i), document, loader) for i, item in enumerate(node.value)]
    return loader.construct_object(node)


_TAGS = {"map", "seq", "str", "int", "float", "bool", "null"}


def _mapping(node: yaml.MappingNode, path: Steps, document: Document, loader: _Loader) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            document.faults.append(Fault(document.file, *place, dotted(path), "keys must be plain words"))
            continue
        key = str(key_node.value)
        if key in result:
            document.faults.append(Fault(document.file, *place, dotted((*path, key)), "this key is written twice"))
            continue
        document.marks[(*path, key)] = place
        result[key] = _convert(value_node, (*path, key), document, loader)
    return result
