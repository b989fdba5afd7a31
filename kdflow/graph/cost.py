"""What the stages of a detector cost, counted on fake tensors."""

from __future__ import annotations

from typing import Any

from kdflow.graph.build import Builder
from kdflow.graph.passes.infer import Inference, example_batch
from kdflow.graph.runtime import Streams
from kdflow.ports import Detector
from kdflow.spec.load import Document
from kdflow.spec.method import Method


def stage_flops(detector: Detector, canvas: tuple[int, int]) -> dict[str, int]:
    """Stage -> floating-point operations of one forward pass of two images of this canvas.

    Stages whose output sizes depend on data (proposal selection, sampling, losses) count as 0: they are cheap, and what follows
    them is counted at the sizes they declare. Where a stage declares its sizes to be fast alone (``runs_on_fakes``), it is counted.
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


def port_values(detector: Detector, canvas: tuple[int, int]) -> dict[str, Any]:
    """Port -> its value as fake tensors for two images of this canvas; ports that cannot be inferred are left out."""
    builder = Builder(Method(kdflow=1, method="ports"), Document("ports"), {"student": detector})
    nodes = {name: builder.port("student", name) for name in detector.ports}
    graph = builder.build()
    Inference(
        graph, builder.document, {"student": detector}, example_batch(*canvas), seed=0, streams=Streams(None)
    ).run()
    return {name: graph[node].value.fake for name, node in nodes.items() if graph[node].value.fake is not None}
