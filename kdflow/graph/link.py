"""Link entries: their references become the inputs of nodes."""

from __future__ import annotations

from difflib import get_close_matches

from kdflow.graph.declared import Declared
from kdflow.graph.entries import BothSides, Entry, OpEntry, own_keys
from kdflow.graph.node import Node, Operand, Role
from kdflow.graph.references import References
from kdflow.graph.rewiring import Rewiring


class Linker:
    """Adds the nodes of entries, and says what is wrong with their references.

    Args:
        nodes: Receives the nodes.
        references: Follows references, and knows the entries.
    """

    def __init__(self, nodes: Declared, references: References) -> None:
        self.nodes, self.references, self.entries = nodes, references, references.entries
        self._made: dict[str, list[str]] = {}

    def made(self, name: str) -> list[str]:
        """Nodes of an entry; for a call those that it reads."""
        return self._made.get(name, [])

    def link(self) -> None:
        """Follow the references of all entries that were declared, and of those that these refer to."""
        while self.entries.open:
            name = self.entries.open.pop(0)
            entry = self.entries.get(name)
            self._made[name] = [] if entry is None else self._linked(entry)
        self._parts()

    def _linked(self, entry: Entry) -> list[str]:
        if isinstance(entry, Rewiring):
            return self._call(entry)
        if isinstance(entry, OpEntry):
            node = self.op(entry)
            return [] if node is None else [node]
        return self._both(entry)

    def _both(self, entry: BothSides) -> list[str]:
        made: list[str] = []
        for side in entry.sides.values():
            before = self._faults()
            if (node := self.op(side)) is not None:
                made.append(node)
            if self._faults() > before:
                break  # the other side would say the same again
        return made

    def _parts(self) -> None:
        """Follow the references to the places of parts that are built."""
        parts = self.references.parts
        while parts.open:
            self._call(parts.open.pop(0))
        while parts.doubtful:
            text, path = parts.doubtful.pop(0)
            if self.references.node(text, path) is not None:
                problem = f'a part stands on a port of a detector, such as student.neck, not on "{text}"'
                self.entries.document.report(path, problem)

    def _faults(self) -> int:
        return len(self.entries.document.faults) + len(self.references.doubts)

    def _call(self, rewiring: Rewiring) -> list[str]:
        wiring, made = self.references.wiring, []
        for place, (text, path) in rewiring.wanted.items():
            node = self.references.node(text, path)
            if node is not None:
                rewiring.found[place] = wiring.in_their_classes(rewiring.owner, place, node)
                made.append(rewiring.found[place])
        return made

    def op(self, entry: OpEntry) -> str | None:
        """The node of an op; None after recording what is wrong with its inputs."""
        if entry.op is None:
            self._look_over(entry)
            return None
        document, inputs, sound = self.entries.document, dict[str, Operand](), entry.sound
        for key, wanted in entry.inputs.items():
            text = entry.arguments.get(key, wanted.default)
            if text is None and wanted.required:
                problem = f'{entry.op.name} needs the input "{key}" ({wanted.kind}); write {key}: REFERENCE'
                document.report(entry.path, problem)
                sound = False
            elif text is not None:
                operand = self.references.operand(text, wanted.many, (*entry.path, key))
                if operand is None:
                    sound = False  # the fault may have been recorded where the named node was declared
                else:
                    inputs[key] = operand
        if not sound or entry.options is None:
            return None
        given = self.entries.given
        for key, meta in entry.op.metas.items():
            if meta == "canvas" and not entry.prepared and (not given or "images" in given):
                inputs[key] = self.references.inputs.node("images")
        node = Node(entry.name, Role.OP, inputs, dict(entry.options), entry.path, op=entry.op)
        node.share, node.weights, node.prepared = entry.share, entry.weights, entry.prepared
        return self.nodes.add(node)

    def _look_over(self, entry: OpEntry) -> None:
        """Report what is wrong with the arguments of an unknown op, as far as that can be said without its signature."""
        owners, path = self.entries.detectors, entry.path
        for key, value in entry.arguments.items():
            if key in ("student", "teacher") or (isinstance(value, str) and value.partition(".")[0] in owners):
                self.references.node(value, (*path, key))
            elif close := get_close_matches(key, own_keys(path), n=1, cutoff=0.8):
                self.entries.document.report((*path, key), f'unknown key "{key}". Did you mean "{close[0]}"?')
