"""What is shown to a detector: image files, folders of them, and the frames of videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from kdflow.data.annotations import Pixels
from kdflow.data.images import SUFFIXES, ImageFaultError, read_pixels
from kdflow.errors import MissingPackageError, UsageError
from kdflow.folders import expand
from kdflow.student.pictures import read

VIDEOS = frozenset((".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"))


@dataclass(frozen=True, eq=False)
class Sight:
    """A picture.

    Attributes:
        name: Its path, with ``#12`` behind it for frame 12 of a video.
        file: The picture's or the video's file.
        frame: Number of the frame, None for a picture.
        image: (3, H, W) uint8.
    """

    name: str
    file: Path
    frame: int | None
    image: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])


def files_of(paths: Sequence[str | Path]) -> list[Path]:
    """Images and videos, in the order given; those of a folder by name, without its folders'.

    Raises:
        UsageError: A path that is not there, a folder without any, or another kind of file.
    """
    files: list[Path] = []
    for given in map(expand, paths):
        if given.is_dir():
            found = sorted(file for file in given.iterdir() if file.suffix.lower() in SUFFIXES | VIDEOS)
            if not found:
                raise UsageError(f"{given}: no image and no video lies in this folder")
            files += found
        elif not given.exists():
            raise UsageError(f"{given}: no such file or folder")
        else:
            files.append(given)
    return files


def sights(files: Sequence[Path], upright: bool = False) -> Iterator[Sight]:
    """The pictures in files, one at a time.

    Args:
        files: Images and videos.
        upright: Pictures are turned as their EXIF orientation says.

    Raises:
        UsageError: A file cannot be read.
        MissingPackageError: A video, and nothing that decodes it is installed.
    """
    for file in files:
        if file.suffix.lower() in VIDEOS:
            for number, frame in enumerate(_frames(file)):
                yield Sight(f"{file}#{number}", file, number, read(frame))
        else:
            try:
                picture = read_pixels(str(file), Pixels("apply" if upright else "ignore"))
            except ImageFaultError as fault:
                raise UsageError(f"{file}: {fault}") from None
            yield Sight(str(file), file, None, read(picture))


def _frames(file: Path) -> Iterator[Image.Image]:
    """Frames as RGB, by whichever decoder is installed."""
    try:
        import av
    except ImportError:
        yield from _frames_of_opencv(file)
        return
    try:
        with av.open(str(file)) as container:
            for frame in container.decode(video=0):
                yield frame.to_image()
    except av.FFmpegError as error:
        raise UsageError(f"{file}: this video cannot be decoded: {error}") from error


def _frames_of_opencv(file: Path) -> Iterator[Image.Image]:
    try:
        import cv2
    except ImportError:
        raise MissingPackageError(
            f"{file}: videos need a decoder: pip install av (or opencv-python-headless)"
        ) from None
    video = cv2.VideoCapture(str(file))
    seen = 0
    while (got := video.read())[0]:
        seen += 1
        yield Image.fromarray(got[1][:, :, ::-1])
    video.release()
    if not seen:
        raise UsageError(f"{file}: this video cannot be decoded")
