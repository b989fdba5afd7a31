"""References of a method, followed to the names of nodes; ports and values that they name are declared on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdflow.errors import choices
from kdflow.graph.declared import Declared
from kdflow.graph.entries import BothSides, Entries, Entry, OpEntry
from kdflow.graph.inputs import Inputs
from kdflow.graph.node import Graph, Node, Operand, Role
from kdflow.graph.rewiring import Rewiring
from kdflow.graph.sides import SIDES
from kdflow.graph.wiring import Wiring
from kdflow.ports import BATCH_PORTS
from kdflow.spec.load import Steps
from kdflow.spec.reference import Reference, parse_reference


class References:
    """Follows references; what is wrong with one becomes a fault at its place.

    Args:
        nodes: Receives what references name.
        entries: The method's entries, with method, document and detectors.
        inputs: Values of the batch, and given ones.
        wiring: The detectors' ports.
    """

    def __init__(self, nodes: Declared, entries: Entries, inputs: Inputs, wiring: Wiring) -> None:
        self.nodes, self.entries, self.inputs, self.wiring = nodes, entries, inputs, wiring
        self.method, self.document, self.detectors = entries.method, entries.document, entries.detectors
        self.parts, self.everyone = entries.calls.parts, entries.calls.parts.everyone
        self.doubts: list[tuple[Entry, Steps, str]] = []

    def report_doubts(self, graph: Graph) -> None:
        """Record what is wrong with references to entries, unless the entry itself is at fault, and so not in the graph."""
        for entry, path, problem in self.doubts:
            if all(name in graph for name in names_of(entry)):
                self.document.report(path, problem)

    def node(self, text: Any, path: Steps) -> str | None:
        """Node that ``text`` refers to; None after recording a fault. A list takes the first reference that exists."""
        if isinstance(text, (list, tuple)):
            return self._first_offered(text, path)
        if not isinstance(text, str):
            self.document.report(path, f"expected a reference such as student.neck, got {text!r}")
            return None
        try:
            parsed = parse_reference(text)
        except ValueError as error:
            self.document.report(path, str(error))
            return None
        whole = self._whole(parsed, path)
        return None if whole is None else self._part(whole, parsed, path)

    def operand(self, text: Any, many: bool, path: Steps) -> Operand | None:
        """One reference, or with ``many`` a tuple of them; None after recording a fault."""
        if not many:
            return self.node(text, path)
        texts = text if isinstance(text, (list, tuple)) else [text]
        found = [self.node(t, (*path, i)) for i, t in enumerate(texts)]
        return None if None in found else tuple(f for f in found if f is not None)

    def _first_offered(self, texts: Any, path: Steps) -> str | None:
        for text in texts:
            if isinstance(text, str) and self._offered(text):
                return self.node(text, path)
        self.document.report(path, f"none of {', '.join(map(str, texts))} is offered by these detectors")
        return None

    def _offered(self, text: str) -> bool:
        try:
            parsed = parse_reference(text)
        except ValueError:
            return False
        if parsed.whole in self.inputs.given or parsed.whole in BATCH_PORTS:
            return True
        if self.parts.declared(parsed.base):
            self.parts.whole(parsed.base)
        detector = self.everyone.get(parsed.base)
        return parsed.rest in detector.ports if detector else parsed.base in self.method.nodes

    def _part(self, whole: str, parsed: Reference, path: Steps) -> str:
        """The entry or slice of a stack that the reference asks for."""
        if parsed.index is None and parsed.span is None:
            return whole
        key: Any = parsed.index if parsed.span is None else slice(*parsed.span)
        name = f"{whole}{str(parsed)[len(parsed.whole) :]}"
        if name not in self.nodes:
            self.nodes.add(Node(name, Role.SLICE, {"stack": whole}, path=path, key=key))
        return name

    def _whole(self, parsed: Reference, path: Steps) -> str | None:
        text = parsed.whole
        if text in self.inputs.given:
            return self.inputs.node(text)
        if parsed.base in self.detectors:
            return self._owned(parsed, path)
        if self.parts.declared(parsed.base):
            return self._of_part(parsed, path)
        if text in BATCH_PORTS:
            return self.inputs.node(text)
        if parsed.base in self.method.nodes or parsed.base in self.method.prepare:
            return self._output(parsed, path)
        if parsed.base.startswith("teacher"):
            owners = ", ".join(self.detectors)
            self.document.report(path, f'"{text}": this run has no "{parsed.base}"; name one in the bench ({owners})')
            return None
        built = [name for name in self.method.modules if self.parts.declared(name)]
        known = [*self.detectors, *self.method.nodes, *self.method.prepare, *built, *BATCH_PORTS]
        problem = f'"{text}": no owner, node or batch value "{parsed.base}".{choices(parsed.base, known)}'
        self.document.report(path, problem)
        return None

    # detectors

    def _owned(self, parsed: Reference, path: Steps) -> str | None:
        detector = self.detectors[parsed.base]
        if parsed.module:
            return self._interior(parsed, path)
        if parsed.rest not in detector.ports:
            problem = f'{parsed.base} ({detector.name}) has no port "{parsed.rest}".{choices(parsed.rest, detector.ports)}'
            self.document.report(path, problem)
            return None
        return self.wiring.in_our_classes(parsed.base, parsed.rest, self.port(parsed.base, parsed.rest))

    def port(self, owner: str, port: str) -> str:
        """The node of a port under the owner's own wiring."""
        return self.wiring.port(owner, port)

    def _of_part(self, parsed: Reference, path: Steps) -> str | None:
        """A port of a detector that was built for a part of it."""
        whole = self.parts.whole(parsed.base)
        if whole is None:
            return None
        detector = self.everyone[parsed.base]
        if parsed.module or parsed.rest not in detector.ports:
            problem = f'{parsed.base} ({detector.name}) has no port "{parsed.rest}{"@" if parsed.module else ""}{parsed.module}".'
            self.document.report(path, problem + choices(parsed.rest, detector.ports))
            return None
        return self.wiring.port(parsed.base, parsed.rest, whole)

    def _called(self, rewiring: Rewiring, output: str) -> str:
        port = rewiring.call.outputs[output]
        return self.wiring.in_our_classes(rewiring.owner, port, self.wiring.port(rewiring.owner, port, rewiring))

    def _interior(self, parsed: Reference, path: Steps) -> str | None:
        try:
            return self.wiring.interior(parsed)
        except LookupError as error:
            self.document.report(path, str(error.args[0]))
            return None

    # entries of the method

    def _output(self, parsed: Reference, path: Steps) -> str | None:
        """A node of the method, or one output of it."""
        entry = self.entries.get(parsed.base)
        if isinstance(entry, Rewiring):
            outputs = entry.call.outputs
            if not parsed.rest and len(outputs) == 1:
                return self._called(entry, next(iter(outputs)))
            if parsed.rest not in outputs:
                self.document.report(path, f'the call "{parsed.base}" gives {", ".join(outputs)}, not "{parsed.rest}"')
                return None
            return self._called(entry, parsed.rest)
        if entry is None and not self.document.faults:
            self.document.report(path, f'"{parsed.whole}" cannot be evaluated: {parsed.base} gives no such value here')
        if entry is None or not is_sound(entry):
            return None
        return self._of_side(entry, parsed, path) if isinstance(entry, BothSides) else self._result(entry, parsed.rest, path)

    def _of_side(self, entry: BothSides, parsed: Reference, path: Steps) -> str | None:
        """The node of one side, or one output of it."""
        side, _, output = parsed.rest.partition(".")
        if side not in SIDES:
            problem = f'"{parsed.base}" has two sides; write {parsed.base}.student or {parsed.base}.teacher'
            self.doubts.append((entry, path, problem + (f", each with .{parsed.rest}" if parsed.rest else "")))
            return None
        return self._result(entry.sides[side], output, path) if side in entry.sides else None

    def _result(self, entry: OpEntry, output: str, path: Steps) -> str | None:
        """A node that gives one value, or the named output of one that gives several."""
        built, gives = entry.name, entry.op.gives if entry.op else {}
        if not isinstance(gives, Mapping):
            if output:
                self.doubts.append((entry, path, f'"{built}" gives one value; write "{built}" without ".{output}"'))
                return None
            return built
        if output not in gives:
            problem = f'"{built}" gives {", ".join(gives)}; write {built}.{next(iter(gives))} or another'
            self.doubts.append((entry, path, problem))
            return None
        name = f"{built}.{output}"
        if name not in self.nodes:
            self.nodes.add(Node(name, Role.PICK, {"stage": built}, key=output))
        return name


def names_of(entry: Entry) -> list[str]:
    """Nodes that an entry is to have; none for a call."""
    if isinstance(entry, BothSides):
        return [side.name for side in entry.sides.values()]
    return [] if isinstance(entry, Rewiring) else [entry.name]


def is_sound(entry: Entry) -> bool:
    """False for an entry that has a fault of its own."""
    if isinstance(entry, BothSides):
        return all(side.sound for side in entry.sides.values())
    return isinstance(entry, Rewiring) or entry.sound
