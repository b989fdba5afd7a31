"""``kdflow doctor``: is everything here that a run needs?"""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer

from kdflow.cli.console import columns, say, say_json
from kdflow.cli.options import JsonOption
from kdflow.errors import KdflowError

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "lightning_fabric",
    "pydantic",
    "networkx",
    "mlflow",
    "optuna",
    "pycocotools",
    "hotcoco",
    "scipy",
)


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        what: Its name.
        verdict: ``good``, ``note`` or ``bad``.
        words: What was found, and what to do.
    """

    what: str
    verdict: str
    words: str


def doctor(json: JsonOption = False) -> None:
    """Look at what a run needs here.

    Versions, device, folders, tracking store and kdflow's own files; one line each.
    """
    findings = [*_packages(), *(_guarded(look) for look in (_python, _device, _folders, _runs, _store, _parts, _specs))]
    if json:
        say_json([vars(finding) for finding in findings])
    else:
        say(columns([(f.verdict, f.what, f.words) for f in findings]))
    if any(finding.verdict == "bad" for finding in findings):
        raise typer.Exit(1)


def _guarded(look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Exception as error:
        return Finding(
            look.__name__.strip("_"), "bad", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        )


def _packages() -> list[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in PACKAGES:
        try:
            importlib.import_module(name)
            found.append(Finding(name, "good", version(name.replace("_", "-"))))
        except (ImportError, PackageNotFoundError, OSError) as error:
            found.append(Finding(name, "bad", f"cannot be imported: {(str(error).splitlines() or [''])[0]}"))
    return found


def _python() -> Finding:
    from kdflow import __version__

    return Finding(
        "kdflow",
        "good",
        f"{__version__} on Python {platform.python_version()}, {platform.system()} {platform.machine()}",
    )


def _device() -> Finding:
    import torch

    threads = f"{torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding("device", "good", f"{names}; {threads}")
    return Finding("device", "note", f"no GPU; runs take place on {os.cpu_count()} CPU cores, {threads}")


def _folders() -> Finding:
    from kdflow.folders import home

    teachers = home() / "teachers"
    trained = sum(1 for path in teachers.glob("*/weights.pt")) if teachers.is_dir() else 0
    drawn = sum(1 for path in (home() / "data").glob("*") if path.is_dir()) if (home() / "data").is_dir() else 0
    return _writable("cache", home(), f"{drawn} drawn data sets, {trained} trained teachers (KDFLOW_HOME moves it)")


def _runs() -> Finding:
    from kdflow.folders import runs_folder

    return _writable("runs", runs_folder(), "checkpoints, students and the default tracking store")


def _writable(what: str, folder: Path, words: str) -> Finding:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(nearest, os.W_OK):
        return Finding(what, "bad", f"{folder} cannot be written")
    return Finding(what, "good", f"{folder}: {words}")


def _store() -> Finding:
    from kdflow.errors import without_passwords
    from kdflow.tracking.store import open_client, store_uri
    from kdflow.urls import sqlite_file

    uri = store_uri()
    shown = without_passwords(uri)
    file = sqlite_file(uri)
    if file is not None and not file.is_file():
        return Finding("store", "good", f"{shown} (made by the first run)")
    try:
        open_client(uri)
    except KdflowError as error:
        return Finding("store", "bad", str(error))
    return Finding("store", "good", shown)


def _parts() -> Finding:
    from kdflow.data.formats import DATASETS
    from kdflow.operation import OPS
    from kdflow.ports import DETECTORS

    return Finding(
        "parts", "good", f"{len(OPS.names())} ops, {len(DETECTORS.names())} detectors, data: {', '.join(DATASETS)}"
    )


def _specs() -> Finding:
    from kdflow.cli.methods import shipped
    from kdflow.experiment.find import names_in
    from kdflow.resources import specs_folder

    return Finding("specs", "good", f"{len(shipped())} methods, {len(names_in(specs_folder() / 'benches'))} benches")
