"""From padded images in 0..1 to what a backbone was trained on: normalised, with the padding at zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """Subtracts the mean, divides by the standard deviation, then zeroes the padding again.

    torchvision normalises each image before it pads; here the images arrive padded, so without the second step the padding
    would hold ``-mean / std`` and the losses of unequal images would differ from the library's.

    Args:
        mean: Per colour, for values in 0..1.
        std: Per colour.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std)).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, image_sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """``pixels`` (B, 3, H, W)."""
        pixels = (images - self.mean.to(images)) / self.std.to(images)
        for own, (height, width) in zip(pixels, image_sizes):
            own[:, height:] = 0
            own[:, :, width:] = 0
        return {"pixels": pixels}
