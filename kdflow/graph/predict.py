"""What a rewired detector predicts, and how it is rebuilt without kdflow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdflow.graph.lower import lower
from kdflow.graph.node import Graph
from kdflow.graph.rewire import DETECTIONS
from kdflow.graph.source import rewired_source
from kdflow.ports import Detector, ImageSizes
from kdflow.source import Source
from kdflow.spec.method import Method


def predictions(method: Method, graph: Graph) -> list[str]:
    """Nodes that hold what the method's rewired detectors predict."""
    owners = dict.fromkeys(key.partition(".")[0] for key in method.wiring)
    return [name for owner in owners if (name := f"{owner}.{DETECTIONS}") in graph]


def rewired(detector: Detector, owner: str, graph: Graph, ops: nn.Module, method: Method) -> Detector:
    """The detector, predicting by its stages as a method wires them.

    Args:
        detector: The detector.
        owner: Its name in the graph.
        graph: The compiled graph, with the owner's detections.
        ops: The plan's op weights, which prediction may need.
        method: Whose wiring it is.
    """
    output = f"{owner}.{DETECTIONS}"
    whole = lower(graph.needed_by([output]), [output], ["images", "image_sizes"])

    def predict(own: Detector, images: Tensor, image_sizes: ImageSizes) -> list[dict[str, Tensor]]:
        stages = (stage.run for stage in own.stages.values())
        with evaluating(whole, ops, own.model, *stages), torch.no_grad():
            found: list[dict[str, Tensor]] = whole(images, image_sizes)[output]
        return found

    def write(own: Detector) -> Source:
        return rewired_source(detector, owner, graph, method)

    return replace(detector, inference=predict, writer=write)


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
