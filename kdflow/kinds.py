"""The kinds of value that travel along the edges of a graph.

A kind names the axes of a tensor, so that masks, weights and divisors meet a loss by *name* and never by silent broadcasting.
A *stack* is a Python list of such tensors: over pyramid levels, decoder layers or images. An op written for one element is
mapped over a stack by the graph, so op authors rarely see lists.

:data:`AXES` says what the axes are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

AXES: Mapping[str, str] = {
    "b": "image in the batch",
    "c": "channel or class",
    "one": "an axis of size 1 that stands for c",
    "y": "row of a map",
    "x": "column of a map",
    "n": "row: a region, instance or pair",
    "r": "dense place: cell times anchor, in the order y, x, anchor",
    "e": "edge of a box",
    "q": "query",
    "h": "attention head",
    "k": "attended token",
}
"""Axis -> what it counts."""


@dataclass(frozen=True)
class Kind:
    """One kind of value.

    Attributes:
        name: The word used in messages and listings.
        axes: Named axes of one tensor; None accepts any tensor.
        stack: ``levels``, ``layers`` or ``images`` when the value is a list of such tensors, else None.
        opaque: True for values that are not tensors or lists of tensors (sizes, pairs, queries, losses).
    """

    name: str
    axes: tuple[str, ...] | None = None
    stack: str | None = None
    opaque: bool = False

    def element(self) -> Kind:
        """The kind of one entry of a stack (the kind itself when it is no stack)."""
        if self.stack is None:
            return self
        return _ELEMENTS.get(self.name, replace(self, name=f"{self.name} entry", stack=None))

    def without(self, axis: str) -> Kind:
        """This kind after ``axis`` was reduced away."""
        axes = None if self.axes is None else tuple(a for a in self.axes if a != axis)
        return of_axes(axes, self.stack)

    def __str__(self) -> str:
        return self.name


ANY = Kind("any", opaque=True)
TENSOR = Kind("tensor")
ANY_LEVELS = Kind("any_levels", None, "levels")
ANY_LAYERS = Kind("any_layers", None, "layers")
SCALAR = Kind("scalar", ())
MAP = Kind("map", ("b", "c", "y", "x"))
MASK = Kind("mask", ("b", "one", "y", "x"))
ROWS = Kind("rows", ("n", "c"))
ROW_BLOCKS = Kind("row_blocks", ("n", "c", "y", "x"))
ROW_VALUES = Kind("row_values", ("n",))
CELLS = Kind("cells", ("b", "r", "c"))
CELL_VALUES = Kind("cell_values", ("b", "r"))
EDGES = Kind("edges", ("b", "r", "e", "c"))
TOKENS = Kind("tokens", ("b", "q", "c"))
TOKEN_VALUES = Kind("token_values", ("b", "q"))
ATTENTION = Kind("attention", ("b", "h", "q", "k"))
IMAGE_VALUES = Kind("image_values", ("b",))
PYRAMID = Kind("pyramid", MAP.axes, "levels")
MASKS = Kind("masks", MASK.axes, "levels")
DENSE = Kind("dense", CELLS.axes, "levels")
DENSE_VALUES = Kind("dense_values", CELL_VALUES.axes, "levels")
LEVEL_BLOCKS = Kind("level_blocks", ROW_BLOCKS.axes, "levels")
LEVEL_ROWS = Kind("level_rows", ROW_VALUES.axes, "levels")
PRIORS = Kind("priors", ("r", "c"), "levels")
LAYERS = Kind("layers", TOKENS.axes, "layers")
LAYER_VALUES = Kind("layer_values", TOKEN_VALUES.axes, "layers")
ATTENTIONS = Kind("attentions", ATTENTION.axes, "layers")
BOXES = Kind("boxes", ("n", "c"), "images")
LABELS = Kind("labels", ("n",), "images")
SCORES = Kind("scores", ("n",), "images")
SIZES = Kind("sizes", opaque=True)
PAIRS = Kind("pairs", opaque=True)
QUERIES = Kind("queries", opaque=True)
LOSSES = Kind("losses", opaque=True)
DETECTIONS = Kind("detections", opaque=True)

KINDS: Mapping[str, Kind] = {k.name: k for k in list(globals().values()) if isinstance(k, Kind)}
_ELEMENTS = {
    "pyramid": MAP,
    "masks": MASK,
    "level_blocks": ROW_BLOCKS,
    "level_rows": ROW_VALUES,
    "dense": CELLS,
    "dense_values": CELL_VALUES,
    "layers": TOKENS,
    "layer_values": TOKEN_VALUES,
    "attentions": ATTENTION,
}


def of_axes(axes: tuple[str, ...] | None, stack: str | None) -> Kind:
    """The named kind with these axes and stack, or an unnamed one."""
    for kind in KINDS.values():
        if not kind.opaque and (kind.axes, kind.stack) == (axes, stack):
            return kind
    words = "x".join(axes) if axes else "scalar"
    return Kind(f"{stack} of ({words})" if stack else f"({words})", axes, stack)


def stacked(element: Kind, stack: str | None) -> Kind:
    """The kind of a list over ``stack`` of ``element`` values."""
    if stack is None or element.opaque:
        return element
    return of_axes(element.axes, stack)


@dataclass(frozen=True)
class Meta:
    """A parameter that the compiler fills in from what it knows of another input, never the user.

    ``strides`` are those of the first stack of levels, ``canvas`` is (H, W) of the padded images, ``axes`` are the axis names of
    one entry of the op's first input.
    """

    name: str


if TYPE_CHECKING:
    from torch import Tensor

    AnyValue: TypeAlias = Any
    AnyTensor: TypeAlias = Tensor
    AnyLevels: TypeAlias = list[Tensor]
    AnyLayers: TypeAlias = list[Tensor]
    Scalar: TypeAlias = Tensor
    Map: TypeAlias = Tensor
    Mask: TypeAlias = Tensor
    Rows: TypeAlias = Tensor
    RowBlocks: TypeAlias = Tensor
    RowValues: TypeAlias = Tensor
    Cells: TypeAlias = Tensor
    CellValues: TypeAlias = Tensor
    Tokens: TypeAlias = Tensor
    TokenValues: TypeAlias = Tensor
    Attention: TypeAlias = Tensor
    ImageValues: TypeAlias = Tensor
    Pyramid: TypeAlias = list[Tensor]
    Masks: TypeAlias = list[Tensor]
    Dense: TypeAlias = list[Tensor]
    DenseValues: TypeAlias = list[Tensor]
    Priors: TypeAlias = list[Tensor]
    Layers: TypeAlias = list[Tensor]
    LayerValues: TypeAlias = list[Tensor]
    Attentions: TypeAlias = list[Tensor]
    Boxes: TypeAlias = list[Tensor]
    Labels: TypeAlias = list[Tensor]
    Scores: TypeAlias = list[Tensor]
    Sizes: TypeAlias = list[tuple[int, int]]
    Pairs: TypeAlias = list[list[tuple[Tensor, Tensor]]]
    Queries: TypeAlias = dict[str, Tensor]
    Losses: TypeAlias = dict[str, Tensor]
    Detections: TypeAlias = list[dict[str, Tensor]]
    Strides: TypeAlias = tuple[int, ...]
    Canvas: TypeAlias = tuple[int, int]
    Axes: TypeAlias = tuple[str, ...]
else:
    AnyValue = Annotated[Any, ANY]
    AnyTensor = Annotated[Any, TENSOR]
    AnyLevels = Annotated[Any, ANY_LEVELS]
    AnyLayers = Annotated[Any, ANY_LAYERS]
    Scalar = Annotated[Any, SCALAR]
    Map = Annotated[Any, MAP]
    Mask = Annotated[Any, MASK]
    Rows = Annotated[Any, ROWS]
    RowBlocks = Annotated[Any, ROW_BLOCKS]
    RowValues = Annotated[Any, ROW_VALUES]
    Cells = Annotated[Any, CELLS]
    CellValues = Annotated[Any, CELL_VALUES]
    Tokens = Annotated[Any, TOKENS]
    TokenValues = Annotated[Any, TOKEN_VALUES]
    Attention = Annotated[Any, ATTENTION]
    ImageValues = Annotated[Any, IMAGE_VALUES]
    Pyramid = Annotated[Any, PYRAMID]
    Masks = Annotated[Any, MASKS]
    Dense = Annotated[Any, DENSE]
    DenseValues = Annotated[Any, DENSE_VALUES]
    Priors = Annotated[Any, PRIORS]
    Layers = Annotated[Any, LAYERS]
    LayerValues = Annotated[Any, LAYER_VALUES]
    Attentions = Annotated[Any, ATTENTIONS]
    Boxes = Annotated[Any, BOXES]
    Labels = Annotated[Any, LABELS]
    Scores = Annotated[Any, SCORES]
    Sizes = Annotated[Any, SIZES]
    Pairs = Annotated[Any, PAIRS]
    Queries = Annotated[Any, QUERIES]
    Losses = Annotated[Any, LOSSES]
    Detections = Annotated[Any, DETECTIONS]
    Strides = Annotated[Any, Meta("strides")]
    Canvas = Annotated[Any, Meta("canvas")]
    Axes = Annotated[Any, Meta("axes")]
