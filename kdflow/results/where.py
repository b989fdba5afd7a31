"""A small language that chooses records: ``dataset = 'coco2017' and node = 'cnn/neck' and AP > 30``.

    expression := expression "or" expression | expression "and" expression
                | "not" expression | "(" expression ")" | test
    test       := field ("=" | "==" | "!=" | "<" | "<=" | ">" | ">=") value
                | field ["not"] "in" "(" value {"," value} ")"
                | field ("~" | "!~") pattern
                | field "is" ["not"] "null"
    value      := 'text' | "text" | word | number | true | false

``not`` binds tighter than ``and``, ``and`` tighter than ``or``; keywords may be written in any case. Text is
compared exactly; a pattern, which only ``~`` takes, has ``*`` for any characters and ``?`` for one (``method ~
'kd-*'``). ``node = 'cnn'`` holds for everything below that node, ``dataset = 'coco'`` for every
year of it (coco2017), and a field with several values (node, knowledge) passes
a test when one of its values does. A test on a value that is not known is false (``AP < 30`` and ``AP >=
30`` both skip a record without AP); ``is null`` asks for such records. Metrics are in percent.

Nothing is evaluated as Python: the text becomes tokens, the tokens a tree of tests.
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from kdflow.errors import UsageError, choices
from kdflow.results.record import METRICS, Record
from kdflow.taxonomy import load_tree

Value: TypeAlias = str | float | bool
Test: TypeAlias = Callable[[Record], bool]

MAX_LENGTH = 4000
MAX_DEPTH = 40


class WhereError(UsageError):
    """The filter cannot be read.

    Attributes:
        position: 0-based place of the fault in the text.
    """

    def __init__(self, text: str, position: int, problem: str) -> None:
        self.position = position
        super().__init__(f"filter, character {position + 1}: {problem}\n  {text}\n  {' ' * position}^")


TEXT_FIELDS = (
    "method", "bench", "dataset", "family", "detector", "student", "teacher", "pair", "variant", "bench_variant", "origin",
    "schedule", "fidelity", "source", "status", "run_id", "run_hash",
)
LIST_FIELDS: Mapping[str, str] = {
    "node": "nodes", "secondary": "secondary", "rewires": "rewires", "knowledge": "knowledge",
}
FLAG_FIELDS = ("verified", "ablation")
DIGITS = "0123456789"
NODE_FIELDS = frozenset({"node", "secondary", "rewires"})


def fields(metrics: Iterable[str] = METRICS) -> tuple[str, ...]:
    """Every name that a filter may use."""
    return (*TEXT_FIELDS, *LIST_FIELDS, *FLAG_FIELDS, "seed", *metrics)


def where(text: str, metrics: Iterable[str] = METRICS) -> Test:
    """The filter ``text`` as a function of a record; empty text lets everything pass.

    Args:
        text: See the head of this module.
        metrics: Metric names that may be used as fields.

    Raises:
        WhereError: With the place of the fault and what would be right.
    """
    if not text.strip():
        return lambda record: True
    if len(text) > MAX_LENGTH:
        raise UsageError(f"the filter has {len(text)} characters; at most {MAX_LENGTH} are read")
    return _Parser(re.sub(r"\s", " ", text), frozenset(metrics)).parse()


@dataclass(frozen=True)
class _Token:
    sort: str
    text: str
    position: int


_SPACE = re.compile(r"\s*")
_TOKENS = re.compile(
    r"""(?P<string>'[^']*'|"[^"]*")
      | (?P<operator>==|!=|<=|>=|!~|[=<>~(),])
      | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w/*?.-]))
      | (?P<word>[\w*?][\w*?./:@+-]*)""",
    re.VERBOSE,
)


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    position = _end_of_space(text, 0)
    while position < len(text):
        match = _TOKENS.match(text, position)
        if match is None:
            unclosed = text[position] in "'\""
            problem = "this quote is not closed" if unclosed else f"{text[position]!r} has no meaning here"
            raise WhereError(text, position, problem)
        found.append(_Token(match.lastgroup or "", match.group(), position))
        position = _end_of_space(text, match.end())
    found.append(_Token("end", "", len(text)))
    return found


def _end_of_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


class _Parser:
    """Recursive descent over the tokens; each method consumes what it describes and returns a test."""

    def __init__(self, text: str, metrics: frozenset[str]) -> None:
        self.text = text
        self.metrics = metrics
        self.tokens = _tokens(text)
        self.index = 0
        self.depth = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.index]

    def fail(self, problem: str, token: _Token | None = None) -> NoReturn:
        raise WhereError(self.text, (token or self.token).position, problem)

    def take(self, *texts: str) -> _Token | None:
        """The next token if it is one of these operators or keywords, consumed."""
        token = self.token
        if token.sort in {"operator", "word"} and token.text.lower() in texts:
            self.index += 1
            return token
        return None

    def need(self, text: str) -> None:
        if self.take(text) is None:
            self.fail(f'"{text}" is expected here{self.found()}')

    def found(self) -> str:
        return ", but the filter ends" if self.token.sort == "end" else f", not {self.token.text}"

    def parse(self) -> Test:
        test = self.alternatives()
        if self.token.sort != "end":
            self.fail(f'"and", "or" or the end is expected here{self.found()}')
        return test

    def alternatives(self) -> Test:
        parts = [self.conjunction()]
        while self.take("or"):
            parts.append(self.conjunction())
        return parts[0] if len(parts) == 1 else lambda record: any(part(record) for part in parts)

    def conjunction(self) -> Test:
        parts = [self.negation()]
        while self.take("and"):
            parts.append(self.negation())
        return parts[0] if len(parts) == 1 else lambda record: all(part(record) for part in parts)

    def negation(self) -> Test:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"nested deeper than {MAX_DEPTH}")
        test = self.inverted() if self.take("not") else self.atom()
        self.depth -= 1
        return test

    def inverted(self) -> Test:
        inner = self.negation()
        return lambda record: not inner(record)

    def atom(self) -> Test:
        if self.take("("):
            test = self.alternatives()
            self.need(")")
            return test
        return self.comparison()

    def comparison(self) -> Test:
        name = self.field()
        if self.take("is"):
            wanted = self.take("not") is None
            self.need("null")
            return lambda record: (not _values(record, name)) is wanted
        negated = self.take("not") is not None
        if self.take("in"):
            values = self.several(name)
            return self.test(name, lambda value: any(_equal(name, value, item) for item in values), negated)
        if negated:
            self.fail(f'"in" is expected after "not"{self.found()}')
        return self.relation(name)

    def relation(self, name: str) -> Test:
        sign = self.take("=", "==", "!=", "<", "<=", ">", ">=", "~", "!~")
        if sign is None:
            self.fail(f"a comparison (=, !=, <, <=, >, >=, ~, in, is) is expected after {name}{self.found()}")
        if sign.text in {"~", "!~"}:
            if self.sort(name) != "text":
                self.fail(f"patterns are for text, and {name} is {_SORTS[self.sort(name)]}", sign)
            shape = str(self.value(name, pattern=True))
            return self.test(name, lambda value: fnmatch.fnmatchcase(str(value), shape), sign.text == "!~")
        if sign.text in {"=", "==", "!="}:
            wanted = self.value(name)
            return self.test(name, lambda value: _equal(name, value, wanted), sign.text == "!=")
        if self.sort(name) != "number":
            self.fail(f"{sign.text} is for numbers, and {name} is {_SORTS[self.sort(name)]}", sign)
        compare, limit = _ORDER[sign.text], self.value(name)
        return self.test(name, lambda value: compare(value, limit), False)

    def test(self, name: str, passes: Callable[[Any], bool], negated: bool) -> Test:
        """True when a value is known, and (negated: no value / else: one value) passes."""

        def run(record: Record) -> bool:
            values = _values(record, name)
            return bool(values) and any(map(passes, values)) is not negated

        return run

    def field(self) -> str:
        token, known = self.token, fields(sorted(self.metrics))
        if token.sort != "word" or token.text.lower() in {"and", "or", "not", "in", "is"}:
            self.fail(f"a field is expected here{self.found()} (known: {', '.join(known)})")
        if token.text not in known:
            self.fail(f'no field "{token.text}".{choices(token.text, known, limit=40)}')
        self.index += 1
        return token.text

    def sort(self, name: str) -> str:
        if name in FLAG_FIELDS:
            return "flag"
        return "text" if name in TEXT_FIELDS or name in LIST_FIELDS else "number"

    def several(self, name: str) -> list[Value]:
        self.need("(")
        values = [self.value(name)]
        while self.take(","):
            values.append(self.value(name))
        self.need(")")
        return values

    def value(self, name: str, pattern: bool = False) -> Value:
        """The next token as a value of the field's sort."""
        token, sort = self.token, self.sort(name)
        if token.sort not in {"string", "number", "word"}:
            self.fail(f"a value for {name} is expected here{self.found()}")
        self.index += 1
        if sort == "number":
            if token.sort != "number":
                self.fail(f"{name} is a number", token)
            return float(token.text)
        if sort == "flag":
            if token.text.lower() not in {"true", "false"}:
                self.fail(f"{name} is true or false", token)
            return token.text.lower() == "true"
        text = token.text[1:-1] if token.sort == "string" else token.text
        if not pattern and set(text) & set("*?"):
            self.fail(f'"{text}" is a pattern; write {name} ~ "{text}"', token)
        if not pattern and name in NODE_FIELDS and text not in load_tree():
            self.fail(f'no taxonomy node "{text}".{choices(text, [node.id for node in load_tree()])}', token)
        return text


_SORTS: Mapping[str, str] = {"text": "text", "flag": "true or false", "number": "a number"}

_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}


def _values(record: Record, name: str) -> tuple[Value, ...]:
    """What the record knows under this name; nothing where it is unknown."""
    if name in LIST_FIELDS:
        return tuple(getattr(record, LIST_FIELDS[name]))
    if name in TEXT_FIELDS:
        text = getattr(record, name)
        return (text,) if text else ()
    if name in FLAG_FIELDS:
        return (bool(getattr(record, name)),)
    number = record.seed if name == "seed" else record.metrics.get(name)
    return () if number is None else (float(number),)


def _equal(name: str, value: Value, wanted: Value) -> bool:
    if name in NODE_FIELDS and isinstance(wanted, str) and wanted in load_tree():
        return load_tree().covers(wanted, str(value))
    if name == "dataset":
        return wanted in (value, str(value).rstrip(DIGITS))
    return value == wanted
