"""What a rewired detector predicts, and how it is rebuilt without kdflow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from kdflow.graph.lower import lower
from kdflow.graph.node import Graph
from kdflow.graph.passes.prune import prune
from kdflow.graph.rewire import DETECTIONS
from kdflow.graph.source import rewired_source
from kdflow.ports import Call, Detector, PortSpec, Stage
from kdflow.source import Source
from kdflow.spec.method import Method

ImageSizes = list[tuple[int, int]]


def predictions(method: Method, graph: Graph) -> list[str]:
    """Nodes that hold what the method's rewired detectors predict."""
    owners = dict.fromkeys(key.partition(".")[0] for key in method.wiring)
    return [name for owner in owners if (name := f"{owner}.{DETECTIONS}") in graph]


class RewiredDetector:
    """A detector that predicts by its stages as a method wires them; see :class:`kdflow.ports.Detector`.

    Args:
        detector: The detector.
        owner: Its name in the graph.
        graph: The compiled graph, with the owner's detections.
        ops: The plan's op weights, which prediction may need.
        method: Whose wiring it is.
    """

    def __init__(self, detector: Detector, owner: str, graph: Graph, ops: nn.Module, method: Method) -> None:
        self.detector, self.owner, self.graph, self.ops, self.method = detector, owner, graph, ops, method
        self.name: str = detector.name
        self.family: str = detector.family
        self.library: str = detector.library
        self.classes: tuple[str, ...] = detector.classes
        self.model: nn.Module = detector.model
        self.ports: Mapping[str, PortSpec] = detector.ports
        self.stages: Mapping[str, Stage] = detector.stages
        self.calls: Mapping[str, Call] = detector.calls
        self.losses: Mapping[str, str] = detector.losses
        self.size_divisor: int = detector.size_divisor
        output = f"{owner}.{DETECTIONS}"
        self._pass = lower(prune(graph, [output]), [output], ["images", "image_sizes"])

    def predict(self, images: Tensor, image_sizes: ImageSizes) -> list[dict[str, Tensor]]:
        """Detections through the rewired stages; see :meth:`kdflow.ports.Detector.predict`."""
        stages = (stage.run for stage in self.detector.stages.values())
        with evaluating(self._pass, self.ops, self.model, *stages), torch.no_grad():
            found: list[dict[str, Tensor]] = self._pass(images, image_sizes)[f"{self.owner}.{DETECTIONS}"]
        return found

    def source(self) -> Source:
        """Python that makes the rewired model without kdflow.

        Raises:
            UsageError: The wiring uses something that only kdflow can do; says what.
        """
        return rewired_source(self.detector, self.owner, self.graph, self.method)


@contextlib.contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module has the mode that it had."""
    modes = {module: module.training for given in modules for module in given.modules()}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
