"""What the stages of a detector cost, counted on fake tensors."""

from __future__ import annotations

from typing import Any

from kdflow.graph.build import Builder
from kdflow.graph.passes.infer import Inference, example_batch
from kdflow.graph.predict import evaluating
from kdflow.graph.rewire import DETECTIONS
from kdflow.graph.runtime import Streams
from kdflow.ports import Detector
from kdflow.spec.load import Document
from kdflow.spec.method import Method

_PLAIN = Method(kdflow=1, method="cost")


def stage_flops(detector: Detector, canvas: tuple[int, int]) -> dict[str, int]:
    """Stage -> floating-point operations of one forward pass of two images of this canvas.

    Stages whose output sizes depend on data (proposal selection, sampling, losses) count up to where they begin to choose: the
    rest is cheap, and what follows them is counted at the sizes they declare.
    """
    builder = Builder(Method(kdflow=1, method="cost"), Document("cost"), {"student": detector})
    graph = builder.build()
    inference = Inference(
        graph,
        builder.document,
        {"student": detector},
        example_batch(*canvas),
        seed=0,
        streams=Streams(None),
        count_flops=True,
    )
    inference.run()
    builder.document.check()
    counted = inference.flops or {}
    return {stage: counted.get(f"student:{stage}", 0) for stage in detector.stages}


def prediction_flops(detector: Detector, canvas: tuple[int, int], method: Method = _PLAIN) -> int:
    """Floating-point operations that the detector's predictions for one image take, as torch counts them.

    They follow from shapes alone, so they are the same on every machine and for all weights: a box head is counted on as many
    proposals as it is given at most, and selecting boxes costs nothing.

    Args:
        detector: With any weights.
        canvas: Height and width of the padded image.
        method: Whose ``wiring:`` the detector has, if any.
    """
    document, owners = Document("cost"), {"student": detector}
    stages = (stage.run for stage in detector.stages.values())
    builder = Builder(method if method.wiring else _PLAIN, document, owners)
    detections = builder.port("student", DETECTIONS)
    builder.rewire()
    graph = builder.link([detections]).needed_by([detections])
    inference = Inference(
        graph, document, owners, example_batch(*canvas), seed=0, streams=Streams(None), count_flops=True
    )
    with evaluating(detector.model, *stages):  # how many proposals are kept depends on the mode
        inference.run()
    document.check()
    images = len(inference.example["images"])
    return sum((inference.flops or {}).values()) // images


def port_values(detector: Detector, canvas: tuple[int, int]) -> dict[str, Any]:
    """Port -> its value as fake tensors for two images of this canvas; ports that cannot be inferred are left out."""
    builder = Builder(Method(kdflow=1, method="ports"), Document("ports"), {"student": detector})
    nodes = {name: builder.port("student", name) for name in detector.ports}
    graph = builder.build()
    Inference(
        graph, builder.document, {"student": detector}, example_batch(*canvas), seed=0, streams=Streams(None)
    ).run()
    return {name: graph[node].value.fake for name, node in nodes.items() if graph[node].value.fake is not None}
