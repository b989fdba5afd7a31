"""Python files of a user's own: ops, detectors and data formats that register themselves, and functions that benches name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from kdflow.errors import UsageError, choices

_LOADED: dict[Path, ModuleType] = {}
_NAMED: dict[str, ModuleType] = {}
"""Plugins by their names in references; of two files of one name the one that was asked for last."""


def load_plugin(path: Path) -> ModuleType:
    """Import one Python file, once; nothing is imported unless a spec or bench names it.

    Raises:
        UsageError: The file is missing or cannot be imported.
    """
    file = path.resolve()
    if file not in _LOADED:
        _LOADED[file] = _import(path, file)
    _NAMED[path.stem] = _LOADED[file]
    return _LOADED[file]


def _import(path: Path, file: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f'there is no file "{path}"')
    name = f"kdflow_plugin_{file.as_posix().strip('/').replace('/', '_').removesuffix('.py')}"
    found = importlib.util.spec_from_file_location(name, file)
    if found is None or found.loader is None:
        raise UsageError(f'"{path}" is no Python file')
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException as error:  # a plugin may also try to end the program
        del sys.modules[name]
        raise UsageError(f'"{path}" cannot be imported: {type(error).__name__}: {error}') from error
    return module


def find_function(reference: str) -> Callable[..., Any]:
    """``mine:make`` of a plugin mine.py, or ``package.module:function`` of an installed package.

    Raises:
        UsageError: There is no such function; says what there is.
    """
    place, colon, name = reference.partition(":")
    if not colon or not place or not name:
        raise UsageError(f'"{reference}" names no function; write PLUGIN:FUNCTION or package.module:FUNCTION')
    module = _NAMED.get(place.removesuffix(".py")) or _imported(place, reference)
    found = getattr(module, name, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UsageError(f'"{place}" has no function "{name}".{choices(name, known)}')
    return found  # type: ignore[no-any-return]


def _imported(place: str, reference: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except (ImportError, ValueError) as error:
        plugins = f"plugins: {', '.join(_NAMED)}" if _NAMED else "name its file under plugins: in the bench"
        raise UsageError(f'"{reference}": no plugin and no package "{place}" ({error}); {plugins}') from error
