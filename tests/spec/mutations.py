"""Shipped methods with one letter too many, at every place where a letter matters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from kdflow.spec.load import Steps

_ENTRIES = ("nodes", "terms", "prepare", "modules")
_FREE = ("title", "paper", "reason", "method", "bench", "name", "fidelity", "steps")
_REFERENCE = re.compile(r"^((student|teacher|targets)[.@][.\w]+|images|image_sizes)(\[[-\d:]+\])?$")


@dataclass(frozen=True)
class Mutation:
    """One letter put into a text.

    Attributes:
        text: The whole file after it.
        line: Where it stands, from 1.
        place: Path of the word, for people.
        inside: True inside a variant or a rule.
    """

    text: str
    line: int
    place: str
    inside: bool


def mutations_of(path: Path) -> Iterator[Mutation]:
    """Every mutation of one file: keys, and the names of ops, calls, modules and ports."""
    text = path.read_text()
    for node, place, is_key in _words(yaml.compose(text, Loader=yaml.SafeLoader), ()):
        word = str(node.value)
        written = text[node.start_mark.index : node.end_mark.index].strip("\"'")
        if not word or word != written or not _matters(place, word, is_key):
            continue
        at = node.start_mark.index + text[node.start_mark.index :].index(word) + _where(word)
        yield Mutation(
            f"{text[:at]}q{text[at:]}", node.start_mark.line + 1, ".".join(map(str, place)), place[0] in ("variants", "rewrite")
        )


def _words(node: yaml.Node, place: Steps) -> Iterator[tuple[yaml.ScalarNode, Steps, bool]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key, (*place, key.value), True
            yield from _words(value, (*place, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _words(value, (*place, index))
    elif isinstance(node, yaml.ScalarNode):
        yield node, place, False


def _matters(place: Steps, word: str, is_key: bool) -> bool:
    """False for what is free text, a number, or a name that the file itself gives."""
    if place[0] in ("title", "paper", "fidelity", "method", "bench", "plugins") and (len(place) > 1 or not is_key):
        return False
    if any(step == "reason" for step in place[:-1]) or (place[-1] == "reason" and not is_key):
        return False
    if is_key:
        named = len(place) == 2 and place[0] in _ENTRIES
        new_entry = "set" in place[:-1] and re.fullmatch(r"(terms|nodes)\.[\w-]+", word)
        return not named and not new_entry and "{" not in word
    if "drop" in place or "search" in place[:1]:
        return "drop" in place and not re.fullmatch(r"[-\d.]+", word)
    return place[-1] in ("op", "loss", "call", "copy") or bool(_REFERENCE.match(word))


def _where(word: str) -> int:
    """Where the letter goes: behind the last word of a path, before an index."""
    return len(word.partition("[")[0])
