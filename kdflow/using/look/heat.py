"""Nodes of the graph as heat maps over pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kdflow.errors import UsageError, choices
from kdflow.ports import Batch
from kdflow.using.saved import Saved

LEVELS = 5
"""Levels of a pyramid that are shown."""


class Heat:
    """Values of a node, picture by picture, with the weights that the run ended with.

    Args:
        saved: The run.
        node: Name of a node, term or port, as the spec has it (``their_places``, ``student.neck``).

    Raises:
        UsageError: There is no such node.
    """

    def __init__(self, saved: Saved, node: str) -> None:
        self.plan = saved.trained().plan.eval()
        names = [one.name for one in self.plan.graph.ordered()]
        if node not in names:
            known = [name for name in names if "." not in name] or names
            raise UsageError(f'no node "{node}" in this graph.{choices(node, known)}')
        self.node, self.pictures = node, saved.pictures

    @torch.no_grad()
    def maps(self, image: Tensor, objects: Sequence[Any]) -> list[tuple[str, NDArray[np.float32]]]:
        """Words and an array (H, W) in 0..1 of the picture without padding, one per level.

        Args:
            image: (3, H, W) uint8.
            objects: Annotations in COCO's form; the method's masks may read them.

        Raises:
            UsageError: The node's value has no place in the picture.
        """
        resized = self.pictures.resized(image)
        height, width = int(resized.shape[-2]), int(resized.shape[-1])
        scale = torch.tensor([width / image.shape[-1], height / image.shape[-2]]).repeat(2)
        real = [one for one in objects if not one["iscrowd"]]
        corners = torch.tensor([one["bbox"] for one in real], dtype=torch.float32).reshape(-1, 4)
        corners = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1) * scale
        labels = torch.tensor([one["category_id"] for one in real], dtype=torch.int64)
        canvas = self.pictures.padded(resized)[None]
        batch = Batch(
            canvas, [(height, width)], [corners], [labels], [0], [(int(image.shape[-2]), int(image.shape[-1]))]
        )
        value = self.plan.evaluate(batch, [self.node])[self.node]
        stack = list(value) if isinstance(value, (list, tuple)) else [value]
        shown = [
            (k, seen)
            for k, level in enumerate(stack[:LEVELS])
            if (seen := self._seen(level, canvas, height, width)) is not None
        ]
        if not shown:
            sizes = ", ".join(str(tuple(one.shape)) for one in stack if isinstance(one, Tensor))
            raise UsageError(
                f'"{self.node}" has no place in the picture (its shape is {sizes or type(value).__name__})'
            )
        return [
            (f"level {k}, up to {peak:.3g}" if len(stack) > 1 else f"up to {peak:.3g}", seen)
            for k, (seen, peak) in shown
        ]

    def _seen(self, level: Any, canvas: Tensor, height: int, width: int) -> tuple[NDArray[np.float32], float] | None:
        """A level as values in 0..1 on the picture, and its largest one; None for what is no map."""
        if not isinstance(level, Tensor) or not 2 <= level.dim() <= 4 or (level.dim() == 4 and len(level) != 1):
            return None
        flat = level[0] if level.dim() == 4 else level
        one = flat.float().abs().mean(0) if flat.dim() == 3 else flat.float().abs()
        rows, columns = int(one.shape[0]), int(one.shape[1])
        if abs(rows * canvas.shape[-1] - columns * canvas.shape[-2]) > max(canvas.shape[-2:]):
            return None  # not of the picture's shape
        peak = float(one.max())
        grown = torch.nn.functional.interpolate(one[None, None], size=canvas.shape[-2:], mode="nearest")[
            0, 0, :height, :width
        ]
        return (grown / peak if peak > 0 else grown).numpy().astype(np.float32), peak


def over(picture: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """The picture in grey, with its heat from dark blue over red to yellow."""
    grown = np.asarray(
        Image.fromarray((heat * 255).clip(0, 255).astype(np.uint8)).resize(picture.size, Image.Resampling.BILINEAR)
    )
    value = grown.astype(np.float32)[..., None] / 255
    stops = np.array([[16, 16, 80], [120, 28, 109], [229, 92, 48], [252, 255, 164]], dtype=np.float32)
    place = value[..., 0] * (len(stops) - 1)
    low = np.minimum(place.astype(int), len(stops) - 2)
    colour = stops[low] + (stops[low + 1] - stops[low]) * (place - low)[..., None]
    grey = np.repeat(np.asarray(picture.convert("L"), dtype=np.float32)[..., None], 3, axis=2)
    return Image.fromarray((0.45 * grey + 0.55 * colour).clip(0, 255).astype(np.uint8))
