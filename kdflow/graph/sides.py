"""One entry for both sides: a node whose inputs are given for student and teacher runs on each, and is read as ``x.student``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdflow.errors import choices
from kdflow.operation import OPS, Op
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import Method
from kdflow.spec.reference import Reference, parse_reference

SIDES = ("student", "teacher")


def is_pair(value: Any) -> bool:
    """True for ``{student: ..., teacher: ...}``."""
    return isinstance(value, dict) and set(value) == set(SIDES)


class Sides:
    """Finds the entries that run on both sides, and what each side takes.

    Args:
        method: Whose entries.
        document: Receives the faults.
    """

    def __init__(self, method: Method, document: Document) -> None:
        self.method, self.document = method, document
        self._known: dict[str, bool] = {}

    def has_two(self, op: Op, arguments: Mapping[str, Any], path: Steps) -> bool:
        """True where an input of the entry is given for both sides, or names something that has two."""
        for key in op.inputs:
            value = arguments.get(key)
            if isinstance(value, dict) and not is_pair(value):
                self._report_half(value, (*path, key))
        return self._are_two(op, arguments)

    def taken(self, op: Op, arguments: Mapping[str, Any], side: str) -> dict[str, Any]:
        """The arguments of one side."""
        return {
            key: value[side] if is_pair(value) else self._of_side(value, side) if key in op.inputs else value
            for key, value in arguments.items()
        }

    def _report_half(self, value: Mapping[str, Any], path: Steps) -> None:
        for key in value:
            if key not in SIDES:
                problem = f"an input is given for student and teacher.{choices(str(key), SIDES)}"
                self.document.report((*path, key), problem)
        for side in SIDES:
            if side not in value:
                problem = f"an input that is given for one side is given for both; write {side}: REFERENCE"
                self.document.report(path, problem)

    def _are_two(self, op: Op, arguments: Mapping[str, Any]) -> bool:
        inputs = [arguments[key] for key in op.inputs if key in arguments]
        return any(is_pair(value) or self._splits(value) for value in inputs)

    def _node_has_two(self, name: str) -> bool:
        """The same for a node by its name; nothing is declared, since its values may be given."""
        if name not in self._known:
            self._known[name] = False  # in a circle, which is a fault of its own
            entry, modules = self.method.nodes[name], self.method.modules
            shared = modules.get(entry.module or "")
            operation = shared.op if shared is not None else entry.op
            if operation is not None and operation in OPS:
                self._known[name] = self._are_two(OPS.get(operation), entry.arguments)
        return self._known[name]

    def _splits(self, value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return any(map(self._splits, value))
        parsed = _parsed(value)
        return parsed is not None and self._has_both(parsed)

    def _has_both(self, parsed: Reference) -> bool:
        """True for the bare name of what gives ``.student`` and ``.teacher``."""
        method = self.method
        if parsed.base in method.nodes and self._node_has_two(parsed.base):
            return parsed.rest.partition(".")[0] not in SIDES
        entry = method.nodes.get(parsed.base) or method.prepare.get(parsed.base)
        operation = entry.op if entry is not None else None
        if parsed.rest or operation is None or operation not in OPS:
            return False
        gives = OPS.get(operation).gives
        return isinstance(gives, Mapping) and set(SIDES) <= set(gives)

    def _of_side(self, value: Any, side: str) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._of_side(part, side) for part in value]
        parsed = _parsed(value)
        if parsed is None or not self._has_both(parsed):
            return value
        rest = f"{side}.{parsed.rest}" if parsed.rest else side
        return str(Reference(parsed.base, rest, "", parsed.index, parsed.span))


def _parsed(text: Any) -> Reference | None:
    if not isinstance(text, str):
        return None
    try:
        return parse_reference(text)
    except ValueError:
        return None
