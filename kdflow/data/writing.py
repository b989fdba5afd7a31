"""What all writers of data sets need: image files copied as they are, under names that stay apart."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from kdflow.data.annotations import Annotations, Pixels
from kdflow.data.images import read_header, read_pixels


def copy_image(file: str, target: Path, pixels: Pixels) -> None:
    """Write the file as it is; where ``exif: apply`` turns its pixels, they are written turned, without loss."""
    if _is_turned(file, pixels):
        read_pixels(file, pixels).save(target, "PNG")
    else:
        shutil.copyfile(file, target)


def _is_turned(file: str, pixels: Pixels) -> bool:
    return pixels.exif == "apply" and read_header(file, pixels).orientation != 1


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Write a text file with these lines."""
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def plain_names(tables: Mapping[str, Annotations]) -> dict[str, list[str]]:
    """File names without folders, unique among all tables: where stems collide, split and image id go in front."""
    files = {split: [_written_name(file, table.pixels) for file in table.files] for split, table in tables.items()}
    counts = Counter(Path(name).stem for names in files.values() for name in names)
    if all(count == 1 for count in counts.values()):
        return files
    return {
        split: [f"{split}_{key}_{name}" for name, key in zip(names, tables[split].ids.tolist())]
        for split, names in files.items()
    }


def _written_name(file: str, pixels: Pixels) -> str:
    path = Path(file)
    return f"{path.stem}.png" if _is_turned(file, pixels) else path.name
