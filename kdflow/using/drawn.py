"""Boxes drawn on pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from kdflow.escape import one_line

LONGEST = 40
"""Characters of a class name that are drawn."""


Corners = tuple[float, float, float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """A box to be drawn.

    Attributes:
        corners: x1, y1, x2, y2 in pixels of the picture.
        words: What is written at it.
        colour: Red, green, blue.
        dashed: It stands for something that is missing.
    """

    corners: Corners
    words: str
    colour: Colour
    dashed: bool = False


def colour_of(label: int) -> Colour:
    """A colour per class; neighbours are far apart."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + 0.618034 * label) % 1.0, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw(picture: Image.Image, boxes: Iterable[Box]) -> Image.Image:
    """A copy of the picture with the boxes."""
    drawn = picture.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    width = max(1, round(min(drawn.size) / 200))
    font = ImageFont.load_default(size=max(9, min(28, round(min(drawn.size) / 28))))
    for box in boxes:
        x1, y1, x2, y2 = box.corners
        x2, y2 = max(x1, x2), max(y1, y2)
        if box.dashed:
            _dashes(pen, (x1, y1, x2, y2), box.colour, width)
        else:
            pen.rectangle((x1, y1, x2, y2), outline=box.colour, width=width)
        if box.words:
            _label(pen, font, (x1, y1), box)
    return drawn


def _dashes(pen: ImageDraw.ImageDraw, corners: Corners, colour: Colour, width: int) -> None:
    x1, y1, x2, y2 = corners
    for (ax, ay), (bx, by) in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
        length = max(abs(bx - ax), abs(by - ay))
        parts = max(1, round(length / (6 * width)))
        for part in range(0, parts, 2):
            begin, end = part / parts, min(1.0, (part + 1) / parts)
            first = ax + (bx - ax) * begin, ay + (by - ay) * begin
            last = ax + (bx - ax) * end, ay + (by - ay) * end
            pen.line((*first, *last), fill=colour, width=width)


def _label(pen: ImageDraw.ImageDraw, font: Any, at: tuple[float, float], box: Box) -> None:
    words = one_line(box.words)
    words = words if len(words) <= LONGEST else words[: LONGEST - 1] + "\u2026"
    left, top, right, bottom = pen.textbbox((0, 0), words, font=font)
    x, y = at[0], at[1] - (bottom - top) - 4
    y = y if y >= 0 else at[1]
    pen.rectangle((x, y, x + right - left + 4, y + bottom - top + 4), fill=box.colour)
    dark = sum(box.colour) > 380
    pen.text((x + 2 - left, y + 2 - top), words, fill=(0, 0, 0) if dark else (255, 255, 255), font=font)
