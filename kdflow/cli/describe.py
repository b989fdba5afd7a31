"""Operations and options in words, read off their signatures and docstrings: for listings, the schema and the reference pages."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kdflow.kinds import Kind
from kdflow.operation import Like, Op


@dataclass(frozen=True)
class InputFacts:
    """One input of an op.

    Attributes:
        name: Key in YAML.
        kind: Kind it takes.
        required: A spec must name it.
        many: A list of references is taken.
        default: Reference used where a spec names none.
        doc: One sentence.
    """

    name: str
    kind: str
    required: bool
    many: bool
    default: str | None
    doc: str


@dataclass(frozen=True)
class OptionFacts:
    """One option.

    Attributes:
        name: Key in YAML.
        type: Its type in words (``number above 0``, ``squared | none``).
        required: It has no default.
        default: The default.
        doc: One sentence.
    """

    name: str
    type: str
    required: bool
    default: Any
    doc: str


@dataclass(frozen=True)
class OpFacts:
    """An operation as its user sees it.

    Attributes:
        name: ``loss.kl``.
        doc: What it does, first paragraph of the docstring.
        details: The paragraphs after the first, without the Args section.
        inputs: In the order of the signature.
        options: In the order of the signature.
        gives: Output name -> kind in words; a single output is called "".
        flags: ``trained``, ``random``, ``no gradient``, ``prepared``.
    """

    name: str
    doc: str
    details: str
    inputs: tuple[InputFacts, ...]
    options: tuple[OptionFacts, ...]
    gives: Mapping[str, str]
    flags: tuple[str, ...] = ()

    @property
    def signature(self) -> str:
        """``loss.kl(student: tensor, teacher: tensor; temperature = 1.0) -> like student``."""
        inputs = ", ".join(f"{i.name}{'' if i.required else '?'}: {i.kind}" for i in self.inputs)
        options = ", ".join(o.name if o.required else f"{o.name} = {literal(o.default)}" for o in self.options)
        result = ", ".join(f"{name}: {kind}" if name else kind for name, kind in self.gives.items())
        return f"{self.name}({inputs}{'; ' if options else ''}{options}) -> {result}"

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name,
            "doc": self.doc,
            "inputs": [vars(i) for i in self.inputs],
            "options": [vars(o) for o in self.options],
            "gives": dict(self.gives),
            "flags": list(self.flags),
        }


def describe_op(op: Op) -> OpFacts:
    """All that a user needs to know of an operation."""
    text = inspect.getdoc(op.target) or ""
    spoken = {**arguments_of(text), **arguments_of(inspect.getdoc(op.call) or "")}
    observed = getattr(op.target, "observe", None)
    if observed is not None:
        spoken |= arguments_of(inspect.getdoc(observed) or "")
    inputs = op.observes or op.inputs
    return OpFacts(
        op.name,
        op.doc,
        _details(text),
        tuple(InputFacts(n, i.kind.name, i.required, i.many, i.default, spoken.get(n, "")) for n, i in inputs.items()),
        describe_options(op.options, spoken),
        _gives(op),
        _flags(op),
    )


def describe_options(model: type[BaseModel], spoken: Mapping[str, str] | None = None) -> tuple[OptionFacts, ...]:
    """The fields of an options model; ``spoken`` has sentences for those without one of their own."""
    return tuple(
        OptionFacts(
            name,
            in_words(info),
            info.is_required(),
            None if info.is_required() else info.get_default(call_default_factory=True),
            info.description or (spoken or {}).get(name, ""),
        )
        for name, info in model.model_fields.items()
    )


def arguments_of(docstring: str) -> dict[str, str]:
    """Argument -> its text in the ``Args:`` section of a Google docstring, on one line."""
    found: dict[str, str] = {}
    name = ""
    for line in _section(docstring, "Args"):
        match = re.match(r"^(\w+):\s*(.*)$", line)
        if match and not line.startswith(" "):
            name = match[1]
            found[name] = match[2]
        elif name:
            found[name] += f" {line.strip()}"
    return {key: " ".join(text.split()) for key, text in found.items()}


def _section(docstring: str, title: str) -> list[str]:
    """Lines of a section, their common indentation taken off."""
    lines = docstring.splitlines()
    try:
        start = lines.index(f"{title}:") + 1
    except ValueError:
        return []
    body = []
    for line in lines[start:]:
        if line and not line.startswith(" "):
            break
        body.append(line[4:])
    return body


def _details(docstring: str) -> str:
    """What stands between the first paragraph and the first section."""
    body = re.split(r"^(?:Args|Returns|Raises|Attributes|Yields):$", docstring, maxsplit=1, flags=re.MULTILINE)[0]
    return body.partition("\n\n")[2].strip()


def _gives(op: Op) -> dict[str, str]:
    gives = op.gives if isinstance(op.gives, Mapping) else {"": op.gives}
    return {name: _rule(rule) for name, rule in gives.items()}


def _rule(rule: Kind | Like) -> str:
    if isinstance(rule, Kind):
        return rule.name
    words = [f"like {rule.source}"]
    if rule.drop:
        words.append(f"without {', '.join(rule.drop)}")
    words += [f"{old} as {new}" for old, new in rule.swap.items()]
    return " ".join(words)


def _flags(op: Op) -> tuple[str, ...]:
    flags = {
        "trained": op.is_module and not op.observes,
        "random": op.stochastic,
        "no gradient": op.no_grad,
        "prepared": bool(op.observes),
    }
    return tuple(name for name, holds in flags.items() if holds)


_WORDS = {int: "whole number", float: "number", str: "word", bool: "true | false", type(None): "none", Any: "anything"}
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def in_words(info: FieldInfo) -> str:
    """The type of a field for people."""
    return type_in_words(info.annotation, _bounds(info.metadata))


def type_in_words(hint: Any, bounds: str = "") -> str:
    """A type for people: ``squared | none``, ``number above 0``, ``list of whole numbers``."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_in_words(inner[0], _bounds(inner[1:]) or bounds)
    if origin is Literal:
        return " | ".join(literal(value) for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(type_in_words(part, bounds) for part in inner if part is not type(None))) + (
            " | none" if type(None) in inner else ""
        )
    if origin in (tuple, list) or (isinstance(origin, type) and issubclass(origin, (tuple, list))):
        return f"list of {type_in_words(inner[0])}" if inner else "list"
    if origin is dict:
        return f"mapping to {type_in_words(inner[1])}"
    word = _WORDS.get(hint, getattr(hint, "__name__", str(hint)))
    return f"{word} {bounds}".strip() if hint in (int, float) else word


def _bounds(metadata: Any) -> str:
    found = []
    for part in metadata:
        for part_of in getattr(part, "metadata", None) or [part]:
            found += [
                f"{word} {getattr(part_of, key):g}"
                for key, word in _BOUNDS.items()
                if getattr(part_of, key, None) is not None
            ]
    return " and ".join(found)


def literal(value: Any) -> str:
    """A value as written in YAML."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(literal(v) for v in value)}]"
    return str(value)
