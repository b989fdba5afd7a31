"""Which boxes the rows of a value speak of, so that a term knows the image of each row.

Rows of all images stand in one table, images in order. How many belong to each image is known from the boxes that they were
made for: pooled, joined, classified. Where it is not certain, it is not known.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdflow.graph.node import Graph, Node, Role, Value
from kdflow.graph.passes.kinds import asks_for_images
from kdflow.kinds import Kind
from kdflow.operation import Like
from kdflow.spec.load import Document


def boxes_of(graph: Graph, node: Node) -> str:
    """The node of the boxes per image that a value's rows belong to; empty where it has no rows, or these are not known."""
    value = node.value
    if _per_image(value.kind):
        return node.name if "n" in (value.kind.axes or ()) else ""
    if node.role is Role.SLICE and _per_image(graph[str(node.inputs["stack"])].value.kind):
        return ""
    kinds = [value.kind]
    if node.role is Role.STAGE and node.run is not None:
        kinds = [port.kind for _, port in node.run.ports]
    elif node.role is Role.OP and value.outputs:
        kinds = list(value.outputs.values())
    elif node.role not in (Role.OP, Role.PICK, Role.SLICE):
        return ""
    if any(map(_per_image, kinds)) or not any(map(_has_rows, kinds)):
        return ""
    boxes = _shared(graph, node)
    return boxes if boxes and _as_many(value, graph[boxes].value.fake) else ""


def give_boxes(graph: Graph, node: Node, document: Document) -> bool:
    """Give a term the boxes of its rows where its reduction asks for images; False after recording that they are not known."""
    if not (asked := asks_for_images(graph, node)):
        return True
    boxes = graph[str(node.inputs["value"])].value.boxes
    if boxes:
        graph.connect(node.name, "boxes", boxes)
        return True
    key, words = asked[0]
    split = "put {op: regions.split, rows: ..., boxes: ...} before the loss, and levels: joins the images"
    document.report((*node.path, "reduce", key), f"{words} asks for images, and nothing says which row is of which; {split}")
    return False


def _as_many(value: Value, boxes: Any) -> bool:
    """False where a value has other rows than there are boxes, as a memory of earlier rows has."""
    entries = value.fake if isinstance(value.fake, (list, tuple)) else [value.fake]
    if not _has_rows(value.kind) or not all(isinstance(entry, Tensor) for entry in (*entries, *boxes)):
        return True  # a stage or an op with several results; they are looked at one by one
    rows = (value.kind.axes or ()).index("n")
    counts, sizes = [own.shape[0] for own in boxes], [entry.shape[rows] for entry in entries]
    if not all(isinstance(size, int) for size in (*counts, *sizes)):
        return True  # known when it runs; the term looks once more
    return all(size == sum(counts) for size in sizes)


def _shared(graph: Graph, node: Node) -> str:
    """The boxes of the input that the result is like, or those that all inputs with rows agree on."""
    if node.op is not None and isinstance(node.op.gives, Like):
        source = node.inputs.get(node.op.gives.source)
        if isinstance(source, str) and (own := graph[source].value.boxes):
            return own
    found = {boxes for operand in node.operands() if (boxes := graph[operand].value.boxes)}
    return found.pop() if len(found) == 1 else ""


def _has_rows(kind: Kind) -> bool:
    return not kind.opaque and "n" in (kind.axes or ()) and "b" not in (kind.axes or ())


def _per_image(kind: Kind) -> bool:
    return kind.stack == "images"
