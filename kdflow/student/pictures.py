"""How a picture reaches a detector in evaluation, and how boxes go back to it."""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms


class Pictures:
    """Resizes pictures as 8-bit colours with antialiasing and pads them with zeros.

    Args:
        size: Shorter side after resizing, pixels.
        max_size: Longest allowed side; a picture that would be longer is made smaller.
        fixed: Resize to exactly ``size`` x ``size``, whatever the aspect ratio.
        divisor: Padded sides are multiples of this.
        upright: Pictures are turned as their EXIF orientation says.
    """

    def __init__(self, size: int, max_size: int, fixed: bool, divisor: int, upright: bool = False) -> None:
        self.size = size
        self.max_size = max_size
        self.fixed = fixed
        self.divisor = divisor
        self.upright = upright

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing a picture of ``height`` x ``width``; the aspect is kept unless ``fixed``."""
        if self.fixed:
            return self.size, self.size
        short, long = min(height, width), max(height, width)
        if long * self.size <= self.max_size * short:
            short, long = self.size, self.size * long // short
        else:
            short, long = max(1, self.max_size * short // long), self.max_size
        return (short, long) if height <= width else (long, short)

    def resized(self, picture: Tensor) -> Tensor:
        """A (3, H, W) picture, uint8 or floats in 0..1, as floats in 0..1 of the size that the detector sees."""
        size = self.target(*picture.shape[-2:])
        if tuple(picture.shape[-2:]) != size:
            picture = transforms.resize(eight_bits(picture), list(size), antialias=True)
        return picture if picture.is_floating_point() else picture.to(torch.float32) / 255

    def padded(self, picture: Tensor) -> Tensor:
        """A resized picture in the top left corner of a canvas of zeros."""
        height, width = picture.shape[-2:]
        canvas = picture.new_zeros(3, *(-(-side // self.divisor) * self.divisor for side in (height, width)))
        canvas[:, :height, :width] = picture
        return canvas


def eight_bits(picture: Tensor) -> Tensor:
    """Floats in 0..1 as uint8."""
    return (picture * 255).round().clamp(0, 255).to(torch.uint8) if picture.is_floating_point() else picture


def read(picture: str | os.PathLike[str] | Image.Image | Tensor, upright: bool = False) -> Tensor:
    """A (3, H, W) picture from a file, a PIL image, or a tensor, which stays as it is.

    Args:
        picture: Of 16 bits per channel the upper 8 are taken.
        upright: Turn it as its EXIF orientation says; else pixels lie as they are stored.
    """
    if isinstance(picture, Tensor):
        return picture
    if not isinstance(picture, Image.Image):
        with Image.open(picture) as file:
            file.load()
            return read(file, upright)
    turned = ImageOps.exif_transpose(picture) if upright else picture
    if turned.mode.startswith("I"):
        turned = Image.fromarray((np.asarray(turned).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    return transforms.pil_to_tensor(turned.convert("RGB"))


def on_picture(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes (n, 4) xyxy cut at the border of the picture."""
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
