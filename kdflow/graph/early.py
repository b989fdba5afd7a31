"""Early: what of a step needs the images and frozen detectors alone, and can be computed before its turn comes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from kdflow.graph.dense import has_fixed_shape, is_static
from kdflow.graph.lower import lower
from kdflow.graph.node import Graph, Node, Role
from kdflow.ports import BATCH_PORTS, Batch

SIGHT = ("images", "image_sizes")
"""What a batch shows of its images; targets are left to the step."""


@dataclass
class FedBatch(Batch):
    """A batch together with the values of the nodes at which a plan was cut (:meth:`kdflow.graph.plan.Plan.cut`)."""

    fed: Mapping[str, Any] = field(default_factory=dict)

    def to(self, device: Any, non_blocking: bool = True) -> FedBatch:
        """The same batch on another device; the fed values are where they were computed."""
        return feed(super().to(device, non_blocking), self.fed)

    def values(self) -> dict[str, Any]:
        """The batch's values, then the fed ones by node name."""
        return {**super().values(), **self.fed}


def feed(batch: Batch, values: Mapping[str, Any]) -> FedBatch:
    """The batch with these values by node name, in place of those that it may have been fed before."""
    own: dict[str, Any] = {one.name: getattr(batch, one.name) for one in fields(Batch)}
    return FedBatch(**own, fed=values)


class Early:
    """The part of a graph that may run one batch ahead of the rest.

    It holds what depends on the images and on frozen stages alone, draws nothing, and has no shapes that depend on data: those
    would let the host wait for a pass that is to run beside the student's.

    Args:
        graph: A compiled graph.
        frozen: ``frozen(node)`` is True for stages that no step changes.
        outputs: Nodes that are wanted whoever reads them.

    Attributes:
        cut: Nodes whose values the rest of the graph reads.
    """

    def __init__(self, graph: Graph, frozen: Callable[[Node], bool], outputs: Collection[str] = ()) -> None:
        places, read = set[str](), set(outputs)
        for node in graph.ordered():
            if places.issuperset(node.operands()) and _is_early(graph, node, frozen):
                places.add(node.name)
            else:
                read.update(node.operands())
        self.cut: Sequence[str] = sorted(places & read - set(SIGHT))
        self._pass = lower(graph.needed_by(self.cut), self.cut, list(BATCH_PORTS)) if self.cut else None

    def __call__(self, batch: Batch) -> FedBatch:
        """The batch with the values of :attr:`cut`."""
        values = batch.values()
        return feed(batch, self._pass(*[values[name] for name in BATCH_PORTS]) if self._pass is not None else {})


def _is_early(graph: Graph, node: Node, frozen: Callable[[Node], bool]) -> bool:
    if node.role is Role.INPUT:
        return node.name in SIGHT and node.given is None
    if node.prepared or node.stochastic or node.role is Role.TERM:
        return False
    if node.role is Role.STAGE and node.run is not None:
        return frozen(node) and all(port.kind.opaque or has_fixed_shape(port.kind) for _, port in node.run.ports)
    return node.op is None or (not node.op.is_module and is_static(graph, node))
