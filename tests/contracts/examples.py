"""Small inputs of every kind, for suites that run over the registry of ops."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdflow import kinds as k
from kdflow.kinds import Kind
from kdflow.operation import Op

CANVAS = (64, 64)
STRIDES = (8, 16)
GRIDS = ((8, 8), (4, 4))
IMAGES, CHANNELS, QUERIES, HEADS, LAYERS = 2, 4, 5, 2, 2
BOX_COUNTS = {"no boxes": (0, 0), "one box": (1, 0), "two images": (2, 1)}
C_LAST = (k.ROWS, k.CELLS, k.TOKENS)
VALUES = (k.ROW_VALUES, k.CELL_VALUES)


class Examples:
    """Draws values of any kind; counts of boxes, rows and labels agree with each other.

    Whatever has four channels is a valid xyxy box too, so the same numbers serve as features, logits and boxes.
    """

    def __init__(self, counts: tuple[int, int] = (2, 1), dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        self.counts, self.dtype = counts, dtype
        self.generator = torch.Generator().manual_seed(seed)

    def of(self, kind: Kind, name: str = "") -> Any:
        """A value of this kind; ``name`` is the input it is for."""
        if kind.opaque:
            return self._opaque(kind)
        if kind.stack == "images":
            return self._per_image(kind)
        if kind.stack == "levels":
            return [self._tensor(kind, name, level) for level in range(len(GRIDS))]
        if kind.stack == "layers":
            return [self._tensor(kind, name) for _ in range(LAYERS)]
        return self._tensor(kind, name)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64).to(self.dtype)

    def _tensor(self, kind: Kind, name: str, level: int = 0) -> Tensor:
        if kind is k.PRIORS:
            return priors(level).to(self.dtype)
        axes = kind.axes or ()
        rows, columns = GRIDS[level]
        sizes = {
            "b": IMAGES, "c": CHANNELS, "one": 1, "n": sum(self.counts), "q": QUERIES, "h": HEADS, "k": QUERIES, "e": 4, "m": 3,
            "r": rows * columns, "y": rows if "b" in axes else 3, "x": columns if "b" in axes else 3,
        }
        shape = [sizes[a] for a in axes]
        if "label" in name:
            return torch.randint(0, CHANNELS, shape, generator=self.generator)
        if "c" in axes:
            values = self._corners(*[s for a, s in zip(axes, shape) if a != "c"]).movedim(-1, axes.index("c"))
            return values.contiguous()
        if kind.axes == k.ATTENTION.axes:
            return self._uniform(*shape).softmax(-1)
        values = self._uniform(*shape)
        return (values > 0.4).to(self.dtype) if axes else values

    def _corners(self, *shape: int) -> Tensor:
        """(..., 4): a first corner in 0..2 and a second one 1 to 3 beyond it."""
        first = self._uniform(*shape, 2) * 2
        return torch.cat([first, first + 1 + self._uniform(*shape, 2) * 2], dim=-1)

    def _per_image(self, kind: Kind) -> list[Tensor]:
        if kind is k.LABELS:
            return [torch.randint(0, CHANNELS, (n,), generator=self.generator) for n in self.counts]
        if kind is k.SCORES:
            return [self._uniform(n) for n in self.counts]
        boxes = []
        for n in self.counts:
            first = self._uniform(n, 2) * 30
            boxes.append(torch.cat([first, first + 4 + self._uniform(n, 2) * 28], dim=-1))
        return boxes

    def _opaque(self, kind: Kind) -> Any:
        return {
            "any": lambda: self._tensor(k.MAP, ""),
            "sizes": lambda: [CANVAS, (CANVAS[0], CANVAS[1] - 16)],
            "pairs": lambda: [[(torch.arange(n), torch.arange(n)) for n in self.counts] for _ in range(LAYERS)],
            "queries": lambda: {key: self._tensor(k.TOKENS, "") for key in ("content", "position", "references")},
            "losses": lambda: {"loss": self._uniform().mean()},
            "detections": lambda: [
                {"boxes": b, "scores": b[:, 0], "labels": b[:, 0].long()} for b in self._per_image(k.BOXES)
            ],
        }[kind.name]()


def priors(level: int) -> Tensor:
    """(R, 4) square boxes of two strides around the cell corners."""
    (rows, columns), stride = GRIDS[level], STRIDES[level]
    y, x = torch.meshgrid(torch.arange(rows) * stride, torch.arange(columns) * stride, indexing="ij")
    corner = torch.stack([x, y], dim=-1).reshape(-1, 2)
    return torch.cat([corner - stride, corner + stride], dim=-1).float()


def kinds_of(op: Op, free: Kind) -> dict[str, Kind]:
    """Kind of every input of the op; ``free``, or what its example says, stands in where the op takes any tensor."""
    wanted = (op.observes or op.inputs).items()
    kinds = {name: free if i.kind is k.TENSOR else i.kind for name, i in wanted if op.example.get(name, "") is not None}
    said = {name: [axis.strip("23") for axis in text.split()] for name, text in op.example.items() if name in kinds}
    return {**kinds, **{name: k.of_axes(tuple(axes), kinds[name].stack) for name, axes in said.items()}}


def free_kinds(op: Op) -> list[Kind]:
    """Kinds to try for inputs that take any tensor: places, rows and maps where the op knows axes or needs none."""
    if all(i.kind is not k.TENSOR or name in op.example for name, i in op.inputs.items()):
        return [k.MAP]
    if op.name.startswith("values.") and "axes" not in op.metas.values():
        return list(VALUES)
    return list(C_LAST) if op.is_module else [k.ROWS, k.CELLS, k.MAP]


def inputs_of(op: Op, kinds: Mapping[str, Kind], examples: Examples) -> dict[str, Any]:
    """A value for every input, optional ones included."""
    wanted = op.observes or op.inputs
    return {
        name: [examples.of(kind, name), examples.of(kind, name)]
        if wanted[name].many
        else wider(examples.of(kind, name), str(op.example.get(name, "")))
        for name, kind in kinds.items()
    }


def wider(value: Any, axes: str) -> Any:
    """A tensor three times as long where its axis is written ``3c``."""
    for dim, axis in enumerate(axes.split()):
        if axis[0] in "23":
            value = torch.cat([value] * int(axis[0]), dim=dim)
    return value


def options_of(op: Op) -> dict[str, Any]:
    """Options after checking, defaults filled in."""
    checked = op.options(**{name: value for name, value in op.example.items() if name not in op.inputs})
    return {name: getattr(checked, name) for name in op.options.model_fields}


def metas_of(op: Op, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """What the compiler would fill in."""
    first = next(iter(kinds.values()), None)
    filled = {"strides": STRIDES, "canvas": CANVAS, "axes": (first.element().axes or ()) if first else ()}
    return {name: filled[meta] for name, meta in op.metas.items()}


def prepared(op: Op, kinds: Mapping[str, Kind], inputs: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    """A callable of the op's inputs: the function, or the module built for them (and its preparation done)."""
    metas, options = metas_of(op, kinds), options_of(op)
    if not op.is_module:
        return lambda **given: op.target(**given, **options, **metas)
    torch.manual_seed(0)
    when_made = {name: metas.pop(name) for name in inspect.signature(op.target).parameters if name in metas}
    module = op.target(**options, **when_made)
    if hasattr(module, "build"):
        wanted = inspect.signature(module.build).parameters
        module.build(**{key: value for key, value in inputs.items() if key in wanted})
    module.to(dtype)
    if op.observes:
        module.begin()
        module.observe(**inputs)
        module.finish()
        return lambda **_: module()
    return functools.partial(module, **metas)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors inside lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [t for part in value for t in tensors_in(part)] if isinstance(value, (list, tuple)) else []
