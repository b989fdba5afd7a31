"""YAML with line marks: strict, bounded, and able to say where every value stands."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from yaml.error import MarkedYAMLError
from yaml.reader import ReaderError

from kdflow.errors import Fault, SpecError

Steps = tuple[str | int, ...]
Mark = tuple[int, int]

MAX_BYTES = 200_000
MAX_DEPTH = 20
MAX_DIGITS = 300
"""Digits of a number; no float and no count needs more."""


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
    word = loader.construct_scalar(node)
    if len(word) > MAX_DIGITS:
        raise _RefusedError(f"a number of {len(word)} digits; at most {MAX_DIGITS} are read", node.start_mark)
    return int(word)


_Loader.add_constructor("tag:yaml.org,2002:float", _number)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


@dataclass
class Document:
    """A parsed YAML file.

    Attributes:
        file: Name shown in messages.
        data: Plain dicts, lists and scalars.
        marks: Path of every value -> (line, column), both 1-based.
        faults: What was wrong with the text itself, and what was found out later.
        places: Path of each reported fault, in the order in which they were found.
        of_run: It is a part of what a run has written of itself.
    """

    file: str
    data: dict[str, Any] = field(default_factory=dict)
    marks: dict[Steps, Mark] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    places: list[tuple[Steps, Fault]] = field(default_factory=list)
    of_run: bool = False

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
        found = self.fault(path, problem)
        self.faults.append(found)
        self.places.append((path, found))

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


def part_of(document: Document, key: Literal["method", "bench"]) -> Document:
    """The method or the bench in a run's ``run.yaml``; any other document as it is."""
    if not is_run(document):
        return document
    marks = {steps[1:]: mark for steps, mark in document.marks.items() if steps[:1] == (key,)}
    # Constants stand in a filled method as numbers, at the places that named them.
    data = {name: value for name, value in document.data[key].items() if name != "constants"}
    return Document(document.file, data, marks, list(document.faults), of_run=True)


def is_run(document: Document) -> bool:
    """True for a ``run.yaml``, which holds a filled method and a filled bench."""
    return all(isinstance(document.data.get(key), dict) for key in ("method", "bench"))


def read(path: str | Path) -> Document:
    """Parse a file; raises SpecError when it cannot be read at all."""
    shown = str(path)
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise SpecError([Fault(shown, 0, 0, "", f"cannot be read: {words}")]) from None
    return parse(_decoded(raw, shown), shown)


def _decoded(raw: bytes, file: str) -> str:
    """The text of a file; raises SpecError with the line where it stops being one."""
    if len(raw) > MAX_BYTES:
        raise SpecError([Fault(file, 1, 1, "", f"larger than {MAX_BYTES} bytes; a spec is a page of text")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
        problem = f"not UTF-8 text (byte {error.start} is 0x{raw[error.start]:02x}); save the file as UTF-8"
        raise SpecError([Fault(file, line, column, "", problem)]) from None


def parse(text: str, file: str = "<text>") -> Document:
    """Parse YAML text into a document; raises SpecError for text that is no YAML mapping."""
    document = Document(file)
    try:
        _refuse_unsafe(text)
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise SpecError([_syntax_fault(file, error)]) from None
    except ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        problem = f"not valid YAML: the character {_code_of(error.character)} is not allowed"
        raise SpecError([Fault(file, line, column, "", problem)]) from None
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:  # escapes such as "\UFFFFFFFF"
        raise SpecError([Fault(file, 1, 1, "", f"not valid YAML: {error}".splitlines()[0])]) from None
    if root is None:
        raise SpecError([Fault(file, 1, 1, "", 'the file is empty; "kdflow new NAME" writes one to start from')])
    if not isinstance(root, yaml.MappingNode):
        place = (root.start_mark.line + 1, root.start_mark.column + 1)
        raise SpecError([Fault(file, *place, "", "the document must be a mapping of keys to values")])
    document.data = _convert(root, (), document, loader)
    document.check()
    return document


def _syntax_fault(file: str, error: MarkedYAMLError) -> Fault:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    return Fault(file, line, column, "", f"not valid YAML: {error.problem or error}")


def _code_of(character: str | bytes | int) -> str:
    """A character by its number, since it cannot be shown."""
    if isinstance(character, int):
        return f"#x{character:04x}"
    return f"#x{ord(character):04x}" if len(character) == 1 else repr(character)


class _RefusedError(MarkedYAMLError):
    """A YAML feature that specs do not use."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)


def _refuse_unsafe(text: str) -> None:
    """Refuse aliases (and with them exponential growth), tags and deep nesting before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _RefusedError("anchors and aliases are not used in specs; use like:", event.start_mark)
        if tag := getattr(event, "tag", None):
            raise _RefusedError(f'tag "{_cut(tag)}" is not allowed; write plain values', event.start_mark)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _RefusedError(f"nested deeper than {MAX_DEPTH}", event.start_mark)


def _convert(node: yaml.Node, path: Steps, document: Document, loader: _Loader) -> Any:
    """The plain value of a YAML node; marks and faults go into the document."""
    document.marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, document, loader)
    if isinstance(node, yaml.SequenceNode):
        return [_convert(item, (*path, i), document, loader) for i, item in enumerate(node.value)]
    return _scalar(node, path, document, loader)


def _scalar(node: yaml.Node, path: Steps, document: Document, loader: _Loader) -> Any:
    """A word, number, boolean or null."""
    try:
        value = loader.construct_object(node)
    except _RefusedError as error:
        document.report(path, str(error.problem))
        return None
    if isinstance(value, str) and (bad := _UNSPEAKABLE.search(value)):
        document.report(path, f"the character {_code_of(bad[0])} is not allowed in a text")
        return None
    return value


_UNSPEAKABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
"""Control characters and halves of surrogate pairs: no name, path or message can hold them."""


def _cut(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."


def _mapping(node: yaml.MappingNode, path: Steps, document: Document, loader: _Loader) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            document.faults.append(Fault(document.file, *place, dotted(path), "keys must be plain words"))
            continue
        key = str(key_node.value)
        if bad := _UNSPEAKABLE.search(key):
            problem = f"the character {_code_of(bad[0])} is not allowed in a key"
            document.faults.append(Fault(document.file, *place, dotted(path), problem))
            continue
        if key in result:
            document.faults.append(Fault(document.file, *place, dotted((*path, key)), "this key is written twice"))
            continue
        document.marks[(*path, key)] = place
        result[key] = _convert(value_node, (*path, key), document, loader)
    return result
