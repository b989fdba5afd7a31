"""Finds the data that comes with kdflow: ``taxonomy/`` and ``specs/``, in a checkout and in an installed package."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kdflow.errors import KdflowError

Name = Literal["taxonomy", "specs"]

_PACKAGE = Path(__file__).resolve().parent


def folder(name: Name, package: Path = _PACKAGE) -> Path:
    """The folder ``name`` of this kdflow.

    An installed package carries it as ``_resources/<name>``; in a checkout it lies beside the package. The neighbour of
    an installed package is never used: another distribution may own a folder of that name.

    Args:
        name: ``taxonomy`` or ``specs``.
        package: Folder of the kdflow package.

    Raises:
        KdflowError: Neither place holds it, so the installation is broken.
    """
    installed = package / "_resources" / name
    if installed.is_dir():
        return installed
    checkout = package.parent / name
    if checkout.is_dir() and (package.parent / "pyproject.toml").is_file():
        return checkout
    raise KdflowError(f'the folder "{name}" is missing: looked for {installed} and {checkout}. Install kdflow again.')


def taxonomy_folder() -> Path:
    """Folder of ``tree.yaml`` and ``published/``."""
    return folder("taxonomy")


def specs_folder() -> Path:
    """Folder of the methods (``<slug>.yaml``) and of ``benches/``."""
    return folder("specs")
