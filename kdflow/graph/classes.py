"""Label sets of student and teachers, mapped by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdflow.errors import UsageError
from kdflow.graph.node import Graph, Node, Role
from kdflow.operation import OPS
from kdflow.ports import Detector

SCORES = {"roi.logits": 1, "roi.deltas": 4, "head.logits": 1, "decoder.logits": 1}
LABELS = ("roi.labels", "assign.labels", "targets.labels")


@dataclass(frozen=True)
class ClassOrder:
    """How a teacher's class order differs from the student's.

    Attributes:
        columns: Entry i is the teacher's index of the student's class i.
    """

    columns: tuple[int, ...]

    @staticmethod
    def of(detectors: Mapping[str, Detector], owner: str) -> ClassOrder | None:
        """The order of an owner; None where it is the student's own. Raises UsageError when the label sets differ."""
        if owner == "student" or "student" not in detectors:
            return None
        ours, theirs = detectors["student"].classes, detectors[owner].classes
        if ours == theirs:
            return None
        if set(ours) != set(theirs) or len(ours) != len(theirs):
            raise UsageError(
                f"student and {owner} know different classes, so their scores cannot be compared.\n"
                f"  student ({len(ours)}): {', '.join(ours)}\n  {owner} ({len(theirs)}): {', '.join(theirs)}\n"
                f"Name the {owner}'s classes with classes: in the bench, or choose a {owner} trained on this label set"
            )
        return ClassOrder(tuple(theirs.index(name) for name in ours))

    def translate(self, graph: Graph, node: str, port: str, *, outward: bool) -> str:
        """The node in the student's order (outward) or, for labels handed to the teacher, in the teacher's."""
        if port in SCORES:
            return self._op(graph, node, "tap.class_scores", "values", {"order": self.columns, "block": SCORES[port]})
        if port in LABELS:
            inverse = tuple(self.columns.index(i) for i in range(len(self.columns)))
            table = inverse if outward and port != "targets.labels" else self.columns
            return self._op(graph, node, "tap.class_labels", "labels", {"table": table})
        return node

    def _op(self, graph: Graph, node: str, name: str, argument: str, options: dict[str, object]) -> str:
        translated = f"{node}~classes"
        if translated not in graph:
            port = graph[node].port
            graph.add(
                Node(translated, Role.OP, {argument: node}, options, op=OPS.get(name), weights=translated, port=port)
            )
        return translated
