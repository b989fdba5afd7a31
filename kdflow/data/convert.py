"""Writing a data set in another format: image files are copied as they are, boxes are written anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdflow.data.files import expand
from kdflow.data.findings import raise_faults
from kdflow.data.folders import open_folder
from kdflow.data.formats import DATASETS, DataSource
from kdflow.data.look import look
from kdflow.errors import UsageError, choices


def convert(
    source: DataSource | str | Path, target: str | Path, to: str, notify: Callable[[str], None] = lambda _: None
) -> Path:
    """Write every split of ``source`` into the new folder ``target``; returns it.

    Args:
        source: An opened data set, or a folder of a known format.
        target: A folder that does not exist yet, or is empty.
        to: Format to write: ``coco``, ``voc``, ``yolo`` or ``huggingface``.
        notify: Told what the format cannot hold.

    Raises:
        DataError: When the source is no data set, has faults or files that are no images, or names that cannot be written.
        UsageError: When the target holds files, or the format cannot be written.
    """
    write = DATASETS.get(to).write if to in DATASETS else None
    if write is None:
        raise UsageError(f'no format "{to}" can be written.{choices(to, writable())}')
    opened = source if isinstance(source, DataSource) else open_folder(source)
    folder = expand(target)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty. Next: name a new folder")
    tables = {name: opened.splits[name].annotations for name in opened.splits.existing}
    raise_faults([finding for table in tables.values() for finding in look(table, range(len(table)), decode=False)])
    for words in write(tables, folder):
        notify(words)
    return folder


def writable() -> list[str]:
    """Formats that can be written."""
    return [name for name in DATASETS if DATASETS.get(name).write is not None]
