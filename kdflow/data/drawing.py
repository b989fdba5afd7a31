"""Scenes of the shapes data set: textured backgrounds, partly hidden objects of low contrast, and things that are none.

Every scene is a function of its random generator and its options alone. Masks are drawn four times too large and averaged,
so edges are smooth; an object's box is the tight box around its visible pixels, as in COCO.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.float32]
Outline = NDArray[np.float64]

FINE = 4
"""Mask pixels per image pixel and side."""
TRIES = 12
"""Places tried for one object before it is given up."""


@dataclass(frozen=True)
class Style:
    """How hard a scene is; see the options of the shapes format for the meaning of each number."""

    objects: tuple[int, int]
    object_size: tuple[float, float]
    contrast: tuple[float, float]
    occlusion: float
    clutter: float
    noise: float


@dataclass(frozen=True)
class Scene:
    """A drawn image with its objects.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: Index of each object's shape among the shapes that were asked for.
        boxes: Left, top, right, bottom pixel edges of each object's visible part.
        masks: (H, W) visible pixels of each object.
    """

    image: NDArray[np.uint8]
    labels: tuple[int, ...]
    boxes: tuple[tuple[int, int, int, int], ...]
    masks: tuple[NDArray[np.bool_], ...]


@dataclass
class _Item:
    """Something solid in the scene; ``label`` is None for things that are no objects."""

    label: int | None
    cover: Floats
    solid: NDArray[np.bool_]
    whole: float
    visible: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.visible = self.solid


def _regular(corners: int) -> Outline:
    angles = np.arange(corners) * (2 * math.pi / corners)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star(rng: Generator) -> Outline:
    points = _regular(10)
    points[1::2] *= rng.uniform(0.42, 0.52)
    return points


def _cross(rng: Generator) -> Outline:
    a = rng.uniform(0.26, 0.38)
    quarter = np.array([[1, -a], [1, a], [a, a]])
    turns = [np.array([[math.cos(t), math.sin(t)], [-math.sin(t), math.cos(t)]]) for t in np.arange(4) * math.pi / 2]
    points = np.concatenate([quarter @ turn for turn in turns])
    return points / np.linalg.norm(points, axis=1).max()


def _rectangle(rng: Generator) -> Outline:
    a = 1 / rng.uniform(1.5, 2.4)
    return np.array([[1, -a], [1, a], [-1, a], [-1, -a]]) / math.hypot(1, a)


SHAPES: Mapping[str, Callable[[Generator], Outline]] = {
    "circle": lambda rng: _regular(40),
    "triangle": lambda rng: _regular(3),
    "square": lambda rng: _regular(4),
    "rectangle": _rectangle,
    "pentagon": lambda rng: _regular(5),
    "hexagon": lambda rng: _regular(6),
    "star": _star,
    "cross": _cross,
}
"""Shape -> outline of about unit radius, before it is turned, stretched a little and scaled."""


def _half_disc(rng: Generator) -> Outline:
    angles = np.linspace(0, math.pi * rng.uniform(0.7, 1.2), 24)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _corner(rng: Generator) -> Outline:
    a = rng.uniform(-0.5, 0.1)
    return np.array([[-0.7, -0.7], [0.7, -0.7], [0.7, a], [a, a], [a, 0.7], [-0.7, 0.7]])


def _sliver(rng: Generator) -> Outline:
    a = rng.uniform(0.05, 0.14)
    return np.array([[-1, -a], [1, -a * rng.uniform(0.2, 1)], [1, a], [-1, a]])


def _blob(rng: Generator) -> Outline:
    return _regular(11) * rng.uniform(0.45, 1.0, size=(11, 1))


_OTHERS = (_half_disc, _corner, _sliver, _blob)


def draw(rng: Generator, shapes: tuple[str, ...], height: int, width: int, style: Style) -> Scene:
    """A scene of ``height`` x ``width`` pixels with objects drawn from ``shapes``."""
    canvas = _background(rng, height, width, style.clutter)
    items: list[_Item] = []
    wanted = [True] * int(rng.integers(style.objects[0], style.objects[1] + 1))
    wanted += [False] * int(rng.poisson(3 * style.clutter))
    for is_object in rng.permutation(np.array(wanted, dtype=bool)):
        item = _place(rng, shapes, canvas.shape[:2], style, items, bool(is_object))
        if item is not None:
            _paint(rng, canvas, item, style)
            for other in items:
                other.visible = other.visible & ~item.solid
            items.append(item)
    image = _finish(rng, canvas, style)
    objects = [item for item in items if item.label is not None]
    return Scene(
        image,
        tuple(item.label for item in objects if item.label is not None),
        tuple(_extent(item.visible) for item in objects),
        tuple(item.visible for item in objects),
    )


def _place(
    rng: Generator, shapes: tuple[str, ...], size: tuple[int, ...], style: Style, items: list[_Item], is_object: bool
) -> _Item | None:
    """A new item that leaves enough of itself and of every object before it to be seen, or None after some tries."""
    height, width = size
    short, (low, high) = min(size), style.object_size
    for _ in range(TRIES):
        label = int(rng.integers(len(shapes))) if is_object else None
        make = SHAPES[shapes[label]] if label is not None else _OTHERS[int(rng.integers(len(_OTHERS)))]
        radius = 0.5 * short * math.exp(rng.uniform(math.log(low), math.log(high)))
        outline = _turned(rng, make(rng)) * radius + rng.uniform(0, 1, size=2) * (width, height)
        cover = _cover(outline, height, width)
        item = _Item(label, cover, cover >= 0.5, _area(outline))
        least = 1 - style.occlusion
        objects = [other for other in items if other.label is not None]
        hidden = any(np.count_nonzero(o.visible & ~item.solid) < least * o.whole for o in objects)
        seen = np.count_nonzero(item.solid) >= max(least * item.whole, 4)
        if not hidden and (seen or not is_object):
            return item
    return None


def _turned(rng: Generator, outline: Outline) -> Outline:
    """Stretched by up to an eighth along a random axis, then turned."""
    along, turn = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi)
    axis = np.array([math.cos(along), math.sin(along)])
    stretched = outline + np.outer(outline @ axis, axis) * rng.uniform(-0.06, 0.06)
    c, s = math.cos(turn), math.sin(turn)
    return stretched @ np.array([[c, s], [-s, c]])


def _area(outline: Outline) -> float:
    x, y = outline[:, 0], outline[:, 1]
    return 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))


def _cover(outline: Outline, height: int, width: int) -> Floats:
    """(H, W) share of each pixel that lies inside the outline."""
    cover = np.zeros((height, width), dtype=np.float32)
    x0, y0 = np.maximum(np.floor(outline.min(axis=0)).astype(int) - 1, 0).tolist()
    x1, y1 = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 2, (width, height)).tolist()
    if x1 > x0 and y1 > y0:
        mask = Image.new("L", ((x1 - x0) * FINE, (y1 - y0) * FINE))
        points = (
            outline - (x0, y0)
        ) * FINE  # Pillow fills pixels that an edge touches: about FINE / 8 too many all round
        ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in points], fill=255)
        cover[y0:y1, x0:x1] = np.asarray(mask.reduce(FINE), dtype=np.float32) / 255
    return cover


def _extent(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom edges of the True pixels."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def _background(rng: Generator, height: int, width: int, clutter: float) -> Floats:
    """Soft colours with texture, in 0..1."""
    base = rng.uniform(0.2, 0.8, size=3).astype(np.float32)
    tint = rng.uniform(-1, 1, size=3).astype(np.float32)
    wide = _clouds(rng, height, width, 2)[..., None] * tint * 0.25
    fine = _texture(rng, height, width)[..., None] * rng.uniform(-1, 1, size=3).astype(np.float32) * (0.22 * clutter)
    return np.clip(base + wide + fine, 0, 1)


def _paint(rng: Generator, canvas: Floats, item: _Item, style: Style) -> None:
    """Fill the item: the mean colour beneath it, moved by some contrast, with a texture of its own."""
    ys, xs = np.nonzero(item.cover)
    if not len(ys):
        return
    window = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
    patch, cover = canvas[window], item.cover[window][..., None]
    beneath = patch.mean(axis=(0, 1))
    step = rng.uniform(-1, 1, size=3)
    step *= rng.uniform(*style.contrast) / np.abs(step).max()
    step = np.where((beneath + step < 0) | (beneath + step > 1), -step, step).astype(np.float32)
    texture = _texture(rng, *cover.shape[:2])[..., None] * rng.uniform(-1, 1, size=3).astype(np.float32)
    fill = beneath + step + texture * np.float32(rng.uniform(0, 0.35) * style.clutter)
    canvas[window] = patch + cover * (np.clip(fill, 0, 1) - patch)


def _texture(rng: Generator, height: int, width: int) -> Floats:
    """(H, W) pattern in about -1..1: clouds, stripes, checks or dots."""
    kind, period, turn = int(rng.integers(5)), rng.uniform(4, 16), rng.uniform(0, math.pi)
    if kind <= 1:
        return _clouds(rng, height, width, int(rng.integers(4, 16)))
    y, x = np.mgrid[:height, :width].astype(np.float32) * np.float32(2 * math.pi / period)
    c, s = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    u, v = x * c + y * s, y * c - x * s
    if kind == 2:
        return np.sin(u)
    waves = np.sin(u) * np.sin(v)
    return np.sign(waves) if kind == 3 else (waves > 0.6).astype(np.float32)


def _clouds(rng: Generator, height: int, width: int, cells: int) -> Floats:
    """(H, W) smooth random values in -1..1, ``cells`` bumps to a side."""
    coarse = Image.fromarray(rng.uniform(-1, 1, size=(cells + 1, cells + 1)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def _finish(rng: Generator, canvas: Floats, style: Style) -> NDArray[np.uint8]:
    """Light that varies over the image, thin scribbles on top of everything, sensor noise."""
    height, width = canvas.shape[:2]
    canvas = canvas * (1 + 0.2 * _clouds(rng, height, width, 1)[..., None])
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(style.noise)
    image = Image.fromarray((np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.poisson(3 * style.clutter))):
        start = rng.uniform(0, 1, size=2) * (width, height)
        steps = rng.normal(0, 0.12 * min(height, width), size=(int(rng.integers(2, 6)), 2))
        points = np.concatenate([start[None], start + np.cumsum(steps, axis=0)])
        colour = tuple(int(value) for value in rng.integers(40, 216, size=3))
        pen.line([(float(x), float(y)) for x, y in points], fill=colour, width=1 + int(rng.integers(0, 2)))
    return np.asarray(image)
