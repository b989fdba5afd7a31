"""Image files: opened within bounds, and turned into the pixels that a user means."""

from __future__ import annotations

import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from kdflow.data.annotations import Pixels, Trouble

FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")
"""Formats of photographs; others that Pillow knows run programs, or take almost any bytes."""
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
) | {".pnm", ".jp2", ".j2k", ".avif"}
"""Endings of image files, in lower case."""
USUAL = {"JPEG": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif"}
"""Usual ending of a format, where it is not the format's name."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_LFS = b"version https://git-lfs"
_LOCK = threading.Lock()


class ImageFaultError(Exception):
    """An image file that cannot be used.

    Attributes:
        trouble: What is wrong.
        reason: Details for the message; may be empty.
    """

    def __init__(self, trouble: Trouble, reason: str = "") -> None:
        self.trouble = trouble
        self.reason = reason
        super().__init__(f"{trouble} ({reason})" if reason else str(trouble))


@dataclass(frozen=True)
class Header:
    """What is known of an image before its pixels are decoded.

    Attributes:
        size: (height, width) as the pixels are read: as stored, or as shown where ``exif: apply`` turns them.
        orientation: EXIF orientation, 1 for pixels stored as they are shown.
        format: Pillow's name of the file's format.
    """

    size: tuple[int, int]
    orientation: int = 1
    format: str = ""


@contextmanager
def open_image(file: str | Path, pixels: Pixels) -> Iterator[Image.Image]:
    """A Pillow image whose pixels are not decoded yet; whatever its decoder raises inside the block is one ImageFaultError."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            raise ImageFaultError(Trouble.BROKEN_FILE, "no regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, and of sizes that are judged here
            with _open(file) as image:
                if image.width * image.height > pixels.max_pixels:
                    raise ImageFaultError(Trouble.TOO_LARGE, too_large(image.width, image.height, pixels))
                yield image
    except ImageFaultError:
        raise
    except FileNotFoundError:
        raise ImageFaultError(Trouble.MISSING_FILE) from None
    except (MemoryError, Image.DecompressionBombError):
        raise ImageFaultError(Trouble.TOO_LARGE, "it does not fit into memory") from None
    except Exception as error:  # decoders raise whatever broken bytes make them raise
        raise ImageFaultError(Trouble.BROKEN_FILE, _reason(file, error)) from None


def too_large(width: int, height: int, pixels: Pixels) -> str:
    """The words about a size beyond ``max_pixels``."""
    return f"{width}x{height} is {width * height} pixels, data.max_pixels is {pixels.max_pixels}"


def _open(file: str | Path) -> Image.Image:
    """Pillow's own bound, one for the whole process, is taken off for the moment: ``max_pixels`` is the bound here."""
    with _LOCK:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=_known_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = before


@cache
def _known_formats() -> list[str]:
    """Those of the formats that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _reason(file: str | Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        with open(file, "rb") as content:
            pointer = content.read(len(_LFS)) == _LFS
        return (
            "a Git LFS pointer; run git lfs pull" if pointer else f"no image of a known format ({', '.join(FORMATS)})"
        )
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_header(file: str | Path, pixels: Pixels, decode: bool = False) -> Header:
    """Size and orientation of an image file; raises ImageFaultError.

    Args:
        file: The image file.
        pixels: How it is read.
        decode: Also decode its pixels, which finds files that are cut or broken.
    """
    with open_image(file, pixels) as image:
        if decode:
            as_rgb(image, pixels)
        orientation = orientation_of(image)
        turned = pixels.exif == "apply" and orientation > 4
        size = (image.width, image.height) if turned else (image.height, image.width)
        return Header(size, orientation, image.format or "")


def read_pixels(file: str | Path, pixels: Pixels) -> Image.Image:
    """The image as RGB, turned where ``exif: apply``; raises ImageFaultError."""
    with open_image(file, pixels) as image:
        return as_rgb(image, pixels)


def as_rgb(image: Image.Image, pixels: Pixels) -> Image.Image:
    """RGB of 8 bits. Of 16 bits the upper 8 are taken; values of 32 bits have no agreed range and are refused."""
    image.load()
    turn = _TURNS.get(orientation_of(image)) if pixels.exif == "apply" else None
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if sixteen:
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageFaultError(Trouble.BROKEN_FILE, "values of 32 bits; save it with 8 bits per channel")
    rgb = image.convert("RGB")
    return rgb.transpose(turn) if turn is not None else rgb


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1 to 8. Pillow turns TIFF by itself; a PNG's is known once its pixels are, or where it comes first."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken metadata of an image that is otherwise good
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1
