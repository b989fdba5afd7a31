"""Forms that finders are opened from: a run, an exported folder, or an ONNX file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from kdflow.errors import UsageError
from kdflow.folders import expand
from kdflow.using.export.onnx_file import MODEL, onnx_finder
from kdflow.using.export.pretrained import FACTS, pretrained_finder
from kdflow.using.finder import Finder, finder_of
from kdflow.using.saved import STUDENT, reopen, run_folder

CODE = "student.py"


def open_finder(place: str | Path, owner: str = "student", device: torch.device | str = "cpu") -> Finder:
    """The student (or a teacher) of a run, or what was exported.

    Args:
        place: A run's folder or name, or what :func:`open_export` takes.
        owner: ``student``, or the name of a teacher of the run.
        device: Where it computes; ONNX files compute on the CPU.

    Raises:
        UsageError: There is no such student, or it cannot be built.
    """
    if run_folder(place) is None and is_export(place):
        if owner != "student":
            raise UsageError(f"{place} is an export of one detector, and no run with a {owner}")
        return open_export(place, device)
    saved = reopen(place)
    detector = saved.student() if owner == "student" else saved.teacher(owner)
    return finder_of(detector, saved.pictures, device)


def is_export(place: str | Path) -> bool:
    """Whether something exported lies there."""
    return _form(expand(place)) is not None


def open_export(place: str | Path, device: torch.device | str = "cpu") -> Finder:
    """What was exported.

    Args:
        place: An ONNX file or its folder, a folder with ``student.py`` and its weights (whose code is run), or a
            folder of ``--format hf``.
        device: Where it computes; ONNX files compute on the CPU.

    Raises:
        UsageError: It cannot be opened.
        MissingPackageError: Something that opens it is not installed.
    """
    path = expand(place)
    form = _form(path)
    if form == "onnx":
        return onnx_finder(path if path.is_file() else path / MODEL)
    if form == "code":
        return written_finder(path if path.is_dir() else path.parent, device)
    if form == "pretrained":
        return pretrained_finder(path, device=device)
    raise UsageError(
        f"{place}: nothing exported lies there: an ONNX file, or a folder with {MODEL}, with {CODE}, or of "
        "kdflow export --format hf"
    )


def _form(path: Path) -> str | None:
    if path.is_file():
        if path.name == STUDENT and path.with_name(CODE).is_file():
            return "code"
        return "onnx" if path.suffix.lower() == ".onnx" else None
    if (path / MODEL).is_file():
        return "onnx"
    if (path / CODE).is_file():
        return "code"
    return "pretrained" if (path / FACTS).is_file() else None


def written_finder(folder: Path, device: torch.device | str = "cpu") -> Finder:
    """The student in a folder with ``student.py``, by the code that lies there."""
    described = importlib.util.spec_from_file_location("exported_student", folder / CODE)
    if described is None or described.loader is None:
        raise UsageError(f"{folder / CODE} cannot be imported")
    module: Any = importlib.util.module_from_spec(described)
    try:
        described.loader.exec_module(module)
        model = module.load()
    except (OSError, RuntimeError, ImportError, SyntaxError) as error:
        raise UsageError(f"{folder}: this student cannot be loaded: {str(error).splitlines()[0]}") from error
    model.to(device)
    return Finder(
        tuple(module.CLASSES), module.PICTURES.upright, lambda image: module.predict(image, model, threshold=-1.0)
    )
