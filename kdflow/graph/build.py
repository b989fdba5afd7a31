"""Build the graph of a method on its detectors: declare, then link. All mistakes are collected and show at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

from kdflow.graph.calls import Calls
from kdflow.graph.declared import Circle, Declared
from kdflow.graph.entries import Entries
from kdflow.graph.inputs import Inputs
from kdflow.graph.link import Linker
from kdflow.graph.names import check_names
from kdflow.graph.node import Graph, Node, Role
from kdflow.graph.parts import Parts
from kdflow.graph.references import References
from kdflow.graph.rewire import DETECTIONS, OwnWiring, read_wiring
from kdflow.graph.terms import add_detector_terms, add_method_terms, check_detector_terms
from kdflow.graph.wiring import Wiring
from kdflow.kinds import Kind
from kdflow.ports import Detector
from kdflow.spec.load import Document
from kdflow.spec.method import Method


class Builder:
    """Builds the graph of one method on the detectors of one bench.

    Entries of the method, ports and stages are declared by name, whatever order they stand in; what they read is a name too.
    Linking turns names into edges, and finds the circles.

    Args:
        method: The resolved method.
        document: Where its lines stand; receives the faults.
        detectors: Owner (``student``, ``teacher``, ...) -> detector.
        given: Reference -> value, for evaluations on given values: the graph is cut at these places.
        kinds: Reference -> kind of a given value, where it is said.
        seed: Seed of the weights of parts that are built.
        references: What follows references.
    """

    def __init__(
        self,
        method: Method,
        document: Document,
        detectors: Mapping[str, Detector],
        given: Mapping[str, Any] | None = None,
        kinds: Mapping[str, Kind] | None = None,
        seed: int = 0,
        references: Callable[[Declared, Entries, Inputs, Wiring], References] = References,
    ) -> None:
        self.method, self.document, self.detectors, self.given = method, document, detectors, dict(given or {})
        nodes = self.nodes = Declared()
        self.parts = Parts(method, document, detectors, seed)
        calls = Calls(method, document, detectors, self.given, self.parts)
        inputs = Inputs(nodes, method, detectors, calls, self.given, kinds or {})
        self.own = OwnWiring({} if given else read_wiring(method, document, detectors))
        self.wiring = Wiring(nodes, self.parts.everyone, inputs, self.own)
        self.entries = Entries(method, document, detectors, calls, self.given)
        self.linker = Linker(nodes, references(nodes, self.entries, inputs, self.wiring))

    def build(self) -> Graph:
        """The whole graph: the student's own wiring and losses, then the method's nodes and terms."""
        first = [] if self.given else self._detectors()
        first += self.declare()
        first += add_method_terms(self.linker)
        if "student" in self.detectors and not self.given:
            student = self.detectors["student"]
            check_detector_terms(self.method, self.document, student.losses)
            first += add_detector_terms(self.linker, student)
        check_names(self.method, self.document)
        graph = self.link(first)
        self.parts.check(graph)
        return graph

    def port(self, owner: str, port: str) -> str:
        """The node of a port under the owner's own wiring."""
        return self.wiring.port(owner, port)

    def _detectors(self) -> list[str]:
        """Nodes of the student's stages, and of all stages of rewired detectors with what they predict."""
        found = []
        for owner, detector in self.detectors.items():
            whole = owner == "student" or owner in self.own.owners
            found += [self.wiring.stage(owner, stage) for stage in detector.stages if whole]
            if owner in self.own.owners and DETECTIONS in detector.ports:
                found.append(self.port(owner, DETECTIONS))
        return found

    def declare(self) -> list[str]:
        """Declare the method's entries and what it rewires; returns the nodes of the entries in the order of the file."""
        names = [*self.method.prepare, *self.method.nodes]
        names = [name for name in names if not any(key == name or key.startswith(f"{name}.") for key in self.given)]
        for name in names:
            self.entries.get(name)
        self.rewire()
        return [node for name in names for node in self.linker.made(name)]

    def rewire(self) -> None:
        """Follow what the method rewires, and the references of all that is declared by now or on the way."""
        self.own.follow(self.linker.references.node)
        self.linker.link()

    def link(self, first: list[str]) -> Graph:
        """The graph of all that was declared; circles are reported."""
        self.wiring.join()
        graph, circles = self.nodes.linked(first)
        self.linker.references.report_doubts(graph)
        for circle in circles:
            self._report(circle)
        return graph

    def _report(self, circle: Circle) -> None:
        for reader, read in zip(circle, [*circle[1:], circle[0]]):
            if (reader, read) in self.wiring.rewired:
                reference, path = self.wiring.rewired[reader, read]
                owner = self.nodes[reader].owner
                problem = f'"{reference}" needs what {owner} computes behind this place: the wiring is a circle'
                self.document.report(path, problem)
                return
        entries = [name for name in map(self._entry_of, map(self.nodes.__getitem__, circle)) if name]
        loop = [name for name, _ in groupby([*entries, entries[0]])]
        loop = loop if len(loop) > 1 else [*loop, *loop]
        self.document.report(("nodes", loop[0]), f"the nodes form a circle: {' -> '.join(loop)}")

    def _entry_of(self, node: Node) -> str:
        """The entry that a node comes from; empty for picks, slices and a detector's own stages."""
        name = str(node.path[1]) if node.role is Role.OP and node.path else node.name.partition(":")[0]
        return name if name in self.method.nodes or name in self.method.prepare else ""
