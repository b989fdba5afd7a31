"""Telling what kind of data set a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdflow.data.files import expand
from kdflow.data.formats import DATASETS, DataSource, open_data
from kdflow.errors import DataError


def open_folder(path: str | Path) -> DataSource:
    """The data set in a folder, of the first format that recognises it by the usual names.

    Raises:
        DataError: When no format does.
    """
    return open_data(*recognise(path))


def recognise(path: str | Path) -> tuple[str, dict[str, Any]]:
    """The format of a folder, and the options by which it is opened; raises DataError when no format recognises it."""
    root = expand(path)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    for name in DATASETS:
        options = DATASETS.get(name).find(root)
        if options is not None:
            return name, dict(options)
    known = [(name.upper(), DATASETS.get(name).signs) for name in DATASETS if DATASETS.get(name).signs]
    raise DataError(f"{root} is neither " + " nor ".join(f"a {name} folder (no {signs})" for name, signs in known))
