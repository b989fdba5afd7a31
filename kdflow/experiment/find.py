"""Methods and benches by name: the files that come with kdflow, and those of the user."""

from __future__ import annotations

from pathlib import Path

from kdflow.errors import UsageError, choices
from kdflow.resources import specs_folder
from kdflow.spec.load import is_run, read


def find_method(name: str | Path) -> Path:
    """The file of a method: a path, or the slug of one that comes with kdflow. Raises UsageError with what exists."""
    return _find(name, specs_folder(), "method")


def find_bench(name: str | Path) -> Path:
    """The file of a bench: a path, or the name of one that comes with kdflow. Raises UsageError with what exists."""
    return _find(name, specs_folder() / "benches", "bench")


def names_in(folder: Path) -> list[str]:
    """Slugs of the specs in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def known_benches() -> list[str]:
    """Names of the benches that come with kdflow."""
    return names_in(specs_folder() / "benches")


def seed_of(name: str | Path) -> int:
    """The seed in a ``run.yaml``; 0 for any other spec."""
    document = read(find_method(name))
    seed = document.data.get("seed") if is_run(document) else None
    return seed if isinstance(seed, int) else 0


def _find(name: str | Path, folder: Path, sort: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if path.is_file():
            return path
        inside = folder / path.name
        if inside.is_file() and path.parent.name in ("specs", "benches", ""):
            return inside
        raise UsageError(f"{path}: there is no such {sort} file.{choices(path.stem, names_in(folder))}")
    if (folder / f"{path}.yaml").is_file():
        return folder / f"{path}.yaml"
    raise UsageError(f'no {sort} "{name}".{choices(str(name), names_in(folder))}')
