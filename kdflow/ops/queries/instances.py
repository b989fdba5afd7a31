"""Questions about objects, true and made up."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from kdflow.functional.box_forms import to_center
from kdflow.functional.positions import point_code
from kdflow.kinds import TOKEN_VALUES, TOKENS, AnyValue, Boxes, Labels, Sizes
from kdflow.operation import op

BINS = 5
POINT = 128


@op(
    "queries.instances",
    gives={
        "descriptors": TOKENS, "real": TOKEN_VALUES, "valid": TOKEN_VALUES, "edges": TOKENS, "inverse_sides": TOKENS,
    },
    defaults={"boxes": "targets.boxes", "labels": "targets.labels", "image_sizes": "image_sizes"},
    stochastic=True,
    no_grad=True,
)
def instances(
    like: AnyValue,
    boxes: Boxes,
    labels: Labels,
    image_sizes: Sizes,
    fakes: Annotated[float, Field(ge=0)] = 5.0,
    most: Annotated[int, Field(gt=0)] = 300,
    jitter: Annotated[float, Field(ge=0, lt=0.5)] = 0.3,
) -> dict[str, Any]:
    """Descriptors of the objects of an image and of made-up ones: class, a point inside the box, and size.

    ``descriptors`` (B, K, classes + 266) hold a one-hot class, the sine code of a point (the box's centre moved by up to
    ``jitter`` of its sides) and one-hot sizes of width and height in five bins (below 64, 128, 256, 512 pixels, and
    above). ``real`` and ``valid`` (B, K) tell objects from made-up ones and from filling. ``edges`` (B, K, 4) are the
    distances of the point to left, top, right, bottom in units of the image, ``inverse_sides`` (B, K, 4) 1 over the side
    that each belongs to. There are ``max(1, (1 + fakes) n)`` queries for n objects, at most ``most`` (or n). Made-up ones
    have any class, a centre anywhere and sides drawn from a normal of mean and deviation 0.2. Source: ICD.

    Args:
        like: Class scores; only the number of classes, the last axis, is read.
        boxes: Per image (n, 4) xyxy pixels.
        labels: Per image (n,) classes.
        image_sizes: (height, width) inside the padding; coordinates are relative to it.
        fakes: Made-up objects per real one.
        most: Largest number of queries, unless there are more objects.
        jitter: Largest shift of the point, in sides of the box.
    """
    scores = like[0] if isinstance(like, (list, tuple)) else like
    classes = scores.shape[-1]
    counts = [min(max(1, int((1 + fakes) * len(own))), max(most, len(own))) for own in boxes]
    images = [
        _image(own, kinds, size, count, jitter, max(counts), classes)
        for own, kinds, size, count in zip(boxes, labels, image_sizes, counts, strict=True)
    ]
    return {key: torch.stack([image[key] for image in images]) for key in images[0]}


def _image(
    boxes: Tensor, labels: Tensor, size: tuple[int, int], count: int, jitter: float, length: int, classes: int
) -> dict[str, Tensor]:
    """All outputs of one image, filled up to ``length`` queries."""
    height, width = size
    scale = boxes.new_tensor([width, height, width, height])
    made_up = count - len(boxes)
    draw = torch.rand((made_up, 2), dtype=boxes.dtype, device=boxes.device)
    sides = (0.2 + 0.2 * torch.randn_like(draw).clamp(-2, 2)).clamp(0.002, 0.7)
    relative = torch.cat([to_center(boxes / scale), torch.cat([0.03 + 0.94 * draw, sides], dim=1)])
    kinds = torch.cat([labels.long(), torch.randint(classes, (made_up,), device=boxes.device)])
    shift = (2 * torch.rand_like(relative[:, :2]) - 1) * jitter * relative[:, 2:]
    sides = relative[:, 2:].clamp(min=1e-6)
    half = sides / 2
    descriptor = torch.cat([
        functional.one_hot(kinds, classes).to(boxes.dtype),
        point_code(relative[:, :2] + shift, POINT),
        size_code(sides * scale[:2]),
    ], dim=1)
    found = {
        "descriptors": descriptor,
        "real": (torch.arange(count, device=boxes.device) < len(boxes)).to(boxes.dtype),
        "valid": boxes.new_ones(count),
        "edges": torch.cat([half + shift, half - shift], dim=1),
        "inverse_sides": 1 / torch.cat([sides, sides], dim=1),
    }
    return {
        key: functional.pad(value, (0, 0) * (value.dim() - 1) + (0, length - count)) for key, value in found.items()
    }


def size_code(sides: Tensor) -> Tensor:
    """(n, 2) width and height in pixels -> (n, 10) one-hot bins."""
    bins = (1.44 * sides.log() - 5).clamp(0, BINS - 1).floor().long()
    return functional.one_hot(bins, BINS).flatten(1).to(sides.dtype)
