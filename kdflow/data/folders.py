"""Telling what kind of data set a folder holds."""

from __future__ import annotations

from pathlib import Path

from kdflow.data.coco import find_splits
from kdflow.data.files import expand
from kdflow.data.formats import DataSource, open_data
from kdflow.data.voc import CLASS_FILE, VOC_CLASSES, find_classes, find_sets
from kdflow.errors import DataError


def open_folder(path: str | Path) -> DataSource:
    """The COCO or VOC data set in a folder, recognised by the usual names.

    The classes of a VOC folder are those in ``classes.txt``, else VOC's twenty where no others occur, else those that occur.

    Raises:
        DataError: When the folder holds neither.
    """
    root = expand(path)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    if find_splits(root):
        return open_data("coco", {"root": str(root)})
    sets = find_sets(root)
    if sets:
        options = {"root": str(root), **sets}
        if not (root / CLASS_FILE).is_file():
            used = find_classes(root)
            options["classes"] = VOC_CLASSES if set(used) <= set(VOC_CLASSES) else used
        return open_data("voc", options)
    raise DataError(
        f"{root} is neither a COCO folder (no annotations/instances_train.json, train/_annotations.coco.json or alike) "
        "nor a VOC folder (no ImageSets/Main/train.txt, here or in a year's folder)"
    )
