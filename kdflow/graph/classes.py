"""Label sets of student and teachers, mapped by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdflow.errors import UsageError
from kdflow.graph.declared import Declared
from kdflow.graph.node import Node, Role
from kdflow.operation import OPS
from kdflow.ports import Classes, Detector


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
        if owner == "student" or "student" not in detectors or not detectors[owner].detects:
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

    def ours(self, nodes: Declared, node: str, classes: Classes | None) -> str:
        """The teacher's value ``node`` as the method sees it, in the student's order."""
        if classes is None:
            return node
        if classes.holds == "scores":
            return self._op(nodes, node, "tap.class_scores", "values", {"order": self.columns, "block": classes.block})
        if classes.holds == "labels":
            return self.labels(nodes, node, inward=False)
        return self._op(nodes, node, "tap.class_detections", "detections", {"table": self._table(inward=False)})

    def theirs(self, nodes: Declared, node: str, classes: Classes | None) -> str:
        """A value that the method hands to the teacher, in the teacher's order."""
        if classes is None or classes.holds == "detections":
            return node
        if classes.holds == "labels":
            return self.labels(nodes, node, inward=True)
        order = self._table(inward=False)
        return self._op(nodes, node, "tap.class_scores", "values", {"order": order, "block": classes.block}, "~theirs")

    def labels(self, nodes: Declared, node: str, *, inward: bool) -> str:
        """Class numbers of the student for the teacher (inward), or of the teacher for the student."""
        options: dict[str, object] = {"table": self._table(inward=inward)}
        return self._op(nodes, node, "tap.class_labels", "labels", options, "~theirs" if inward else "~classes")

    def _table(self, *, inward: bool) -> tuple[int, ...]:
        """Entry i is what class i of the student (inward), or of the teacher, is called by the other."""
        return self.columns if inward else tuple(self.columns.index(i) for i in range(len(self.columns)))

    def _op(
        self, nodes: Declared, node: str, name: str, argument: str, options: dict[str, object], suffix: str = "~classes"
    ) -> str:
        translated = f"{node}{suffix}"
        if translated not in nodes:
            port = nodes[node].port if node in nodes else None
            nodes.add(
                Node(translated, Role.OP, {argument: node}, options, op=OPS.get(name), weights=translated, port=port)
            )
        return translated
