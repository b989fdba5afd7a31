"""A teacher's maps of which only the sizes are read are not made: priors stand where cells are, whatever is in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.graph.node import Graph, Node, Role
from kdflow.graph.runtime import StageCall

Size = tuple[int, int]


class Sizes(nn.Module):
    """Maps without values.

    Args:
        strides: Pixels per cell, per level.
    """

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 1, H, W) per level for images (B, 3, h, w); they take no memory."""
        nothing = images.new_empty(1, dtype=torch.float32)
        size: Size = (images.shape[-2], images.shape[-1])
        return [nothing.expand(len(images), 1, *cells(size, stride)) for stride in self.strides]


def cells(canvas: Size, stride: int) -> Size:
    """Rows and columns of a map over a canvas; the last ones may lie over its edge."""
    return -(-canvas[0] // stride), -(-canvas[1] // stride)


def spare_maps(graph: Graph, terms: Sequence[str], canvas: Size) -> None:
    """Give stages of teachers sizes in place of maps that nothing else needs, in place.

    Maps stay where their sizes do not follow from canvas and strides (convolutions without padding).
    """
    needed = {node.name for node in graph.upwards(*terms, through=_values)}
    for node in graph.ordered():
        if node.name not in needed:
            continue
        for argument in _sized(node):
            maps = graph[str(node.inputs[argument])]
            if maps.name not in needed and _follows(maps, canvas):
                _replace(graph, node, argument, maps)


def _sized(node: Node) -> tuple[str, ...]:
    """Arguments of a teacher's stage that it reads the sizes of alone."""
    return node.run.sizes if node.role is Role.STAGE and node.run and node.owner != "student" and node.copied is None else ()


def _values(node: Node) -> Iterable[str]:
    """Operands whose values a training step needs."""
    if node.prepared:
        return ()
    if sized := _sized(node):
        return [str(operand) for argument, operand in node.inputs.items() if argument not in sized]
    return node.operands()


def _follows(maps: Node, canvas: Size) -> bool:
    found: Any = maps.value.fake
    strides = maps.value.strides
    if not isinstance(found, (list, tuple)) or len(found) != len(strides):
        return False
    return all(tuple(m.shape[-2:]) == cells(canvas, stride) for m, stride in zip(found, strides))


def _replace(graph: Graph, node: Node, argument: str, maps: Node) -> None:
    name = f"{node.owner}:sizes of {maps.name}"
    if name not in graph:
        sizes = Sizes(maps.value.strides)
        module = StageCall(name, sizes, {}, None)
        graph.add(Node(name, Role.STAGE, {"images": "images"}, owner=node.owner, stage="sizes", value=maps.value, module=module))
    graph.disconnect(node.name, argument)
    graph.connect(node.name, argument, name)
