"""Paths in a bench: written relative to its file, used as absolute ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdflow.resources import specs_folder

WEIGHTS = ("weights", "pretrained_backbone", "pretrained", "model")
"""Keys of a detector that may name a file or folder, or weights that a library knows by name."""
ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
"""What is a file by its ending, though it is not there."""


def anchor(bench: dict[str, Any], file: str | Path) -> None:
    """Make the paths in a bench's plain data absolute: they are relative to the folder of ``file``.

    ``data.root`` is a path always. Weights are one where something of that name lies beside the file, or where they end
    like a file; all others are names that a library knows. Paths that begin with ``~``, ``$`` or ``/`` stay. Benches that
    come with kdflow lie in no folder of the user's: theirs are relative to where the command runs.

    Args:
        bench: Plain data of the bench file, changed in place; what is no mapping or text is left to the checks.
        file: The bench's file.
    """
    folder = folder_of(file)
    data = bench.get("data")
    if isinstance(data, dict) and isinstance(root := data.get("root"), str) and _is_relative(root):
        data["root"] = os.path.normpath(folder / root)
    for owner in _owners(bench):
        for key in WEIGHTS:
            if isinstance(name := owner.get(key), str) and _is_relative(name) and _is_place(folder, name):
                owner[key] = os.path.normpath(folder / name)


def folder_of(file: str | Path) -> Path:
    """The folder that paths in a bench file are relative to."""
    path = Path(os.path.abspath(file))
    return Path.cwd() if path.is_relative_to(specs_folder()) else path.parent


def _owners(bench: dict[str, Any]) -> Iterator[dict[str, Any]]:
    several = bench.get("teachers")
    for owner in (bench.get("student"), bench.get("teacher"), *(several.values() if isinstance(several, dict) else ())):
        if isinstance(owner, dict):
            yield owner


def _is_relative(name: str) -> bool:
    return bool(name) and "\0" not in name and not name.startswith(("~", "$")) and not os.path.isabs(name)


def _is_place(folder: Path, name: str) -> bool:
    return name.endswith(ENDINGS) or name.startswith(("./", "../")) or os.path.exists(folder / name)
