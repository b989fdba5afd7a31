"""What the families have in common: candidates of a picture, how their input is prepared, and what is dropped among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.errors import UsageError
from kdflow.ports import Detector, Stage

Found = tuple[Tensor, Tensor, Tensor]
"""Boxes (N, C, 4) xyxy pixels of the input, scores (N, C), labels (N, C)."""
Size = tuple[int, int]
NEVER = -1.0
"""The score of a candidate that only fills a place."""


@dataclass(frozen=True)
class Suppression:
    """What happens to the candidates of a picture.

    Attributes:
        score: Candidates have more than this score; ``NEVER`` takes all.
        iou: A candidate that overlaps a better one of its class by more is dropped; None keeps all.
        limit: Most detections of a picture.
    """

    score: float = NEVER
    iou: float | None = None
    limit: int = 0


class Canvas(nn.Module):
    """Resized pictures in 0..1 as the model sees them: normalised, then padded on the right and below.

    Args:
        normalize: The detector's own stage; None leaves the values in 0..1.
        canvas: (height, width) with the padding.
    """

    def __init__(self, normalize: Any, canvas: Size) -> None:
        super().__init__()
        self.canvas = canvas
        self.filling = 0.0
        self.flipped, self.mean, self.std = False, torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
        if isinstance(transform := getattr(normalize, "owner", None), nn.Module):
            letterbox: Any = transform  # YOLOX: blue first, a wide range, and grey around the picture
            self.flipped, self.std = letterbox.bgr, torch.full((3, 1, 1), 1.0 / letterbox.scale)
            self.filling = letterbox.grey * letterbox.scale / 255
        elif normalize is not None:
            self.mean, self.std = normalize.mean.detach().clone(), normalize.std.detach().clone()

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, 3, height, width) -> (N, 3, *canvas)."""
        pixels = (pictures.flip(-3) if self.flipped else pictures).sub(self.mean).div(self.std)
        height, width = int(pixels.shape[-2]), int(pixels.shape[-1])
        return nn.functional.pad(pixels, (0, self.canvas[1] - width, 0, self.canvas[0] - height), value=self.filling)


class Stages(nn.Module):
    """A detector's stages, run one after the other until what is wanted is there."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.stages: list[Stage] = [stage for name, stage in detector.stages.items() if name != "normalize"]
        self.runs = nn.ModuleList(stage.run for stage in self.stages if isinstance(stage.run, nn.Module))

    def forward(self, given: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
        """Values of ports.

        Args:
            given: Those that are known.
            wanted: Those that are needed.

        Raises:
            UsageError: The stages do not give them.
        """
        values = dict(given)
        for stage in self.stages:
            made = [port.name for _, port in stage.ports]
            if all(name in values for name in made) or not all(name in values for name in stage.reads.values()):
                continue
            result = stage.run(**{argument: values[name] for argument, name in stage.reads.items()})
            values |= {port.name: result[key] for key, port in stage.ports if key in result and port.name not in values}
            if all(name in values for name in wanted):
                return values
        raise UsageError(f"this detector does not offer {', '.join(name for name in wanted if name not in values)}")


def within(boxes: Tensor, size: Size) -> Tensor:
    """Boxes (..., 4) cut at the border of a picture of (height, width)."""
    return boxes.clamp(min=0).minimum(boxes.new_tensor([size[1], size[0]] * 2))


def pick(values: Tensor, rows: Tensor) -> Tensor:
    """(N, R, 4) boxes -> (N, C, 4), those in the rows (N, C)."""
    return values.gather(1, rows[..., None].expand(-1, -1, 4))
