"""What every data format that can be written promises: its folders are recognised, checked, and read back as written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kdflow.data.annotations import Annotations
from kdflow.data.check import check_data, require_ready
from kdflow.data.convert import convert, writable
from kdflow.data.folders import open_folder
from kdflow.data.formats import DATASETS, DataSource, describe, open_data
from kdflow.data.transforms import Geometry
from kdflow.errors import DataError, UsageError
from tests.data.conftest import write_coco  # noqa: F401  (a fixture)

Write = Callable[..., Path]
NAMES = ("one.png", "two words 1.jpg", "sub/dotted.name.PNG", "Ünï.jpeg", "empty.jpg")
FORMATS = [pytest.param(name, id=name) for name in writable()]
pytestmark = pytest.mark.parametrize("format", FORMATS)


@pytest.fixture
def source(write_coco: Write) -> DataSource:  # noqa: F811
    """Three splits of five images, the last without boxes; whole pixels, which every format holds exactly."""
    boxes = [
        {"image_id": k, "category_id": c, "bbox": [k, 2, 5 + c % 9, 8], "iscrowd": 0}
        for k in (1, 2, 3, 4)
        for c in (3, 7, 90)
    ]
    for split in ("train", "val", "test"):
        root = write_coco(split, [(k, f"{split} {name}" if "/" not in name else name.replace("d", f"{split}d", 1), 20, 30)
                                  for k, name in enumerate(NAMES, start=1)], boxes)  # fmt: skip
    return open_folder(root)


def content(table: Annotations) -> dict[str, list[tuple[str, list[float]]]]:
    """Image name -> its boxes, sorted."""
    found: dict[str, list[tuple[str, list[float]]]] = {Path(name).name: [] for name in table.names}
    for owner, label, box in zip(table.owners, table.labels, table.boxes):
        found[Path(table.names[owner]).name].append((table.classes[label], np.round(box, 6).tolist()))
    return {name: sorted(boxes) for name, boxes in found.items()}


def test_a_folder_is_read_back_as_written(source: DataSource, tmp_path: Path, format: str):
    back = open_folder(convert(source, tmp_path / "new", format))
    assert back.format == format
    assert back.classes == source.classes
    assert back.splits.existing == source.splits.existing
    for split in source.splits.existing:
        before, after = source.splits[split], back.splits[split]
        assert content(after.annotations) == content(before.annotations)
        assert after.annotations.notes == ()
        pixels = {Path(n).name: before.dataset[k].image for k, n in enumerate(before.annotations.names)}
        for k, name in enumerate(after.annotations.names):
            assert torch.equal(after.dataset[k].image, pixels[Path(name).name])


def test_a_folder_passes_the_check_and_is_ready(source: DataSource, tmp_path: Path, format: str):
    folder = convert(source, tmp_path / "new", format)
    report = check_data(folder)
    assert report.faults == ()
    assert [(split.split, split.images, split.boxes) for split in report.splits] == [
        (name, 5, 12) for name in ("train", "val", "test")
    ]
    assert require_ready(open_folder(folder), Geometry()) == ()


def test_a_bench_needs_the_root_and_what_find_says(source: DataSource, tmp_path: Path, format: str):
    folder = convert(source, tmp_path / "new", format)
    options = DATASETS.get(format).find(folder)
    assert options is not None
    assert describe(format, options) == source.classes
    assert open_data(format, options).fingerprint == open_folder(folder).fingerprint
    (tmp_path / "nothing").mkdir()
    assert DATASETS.get(format).find(tmp_path / "nothing") is None


def test_a_second_conversion_changes_nothing(source: DataSource, tmp_path: Path, format: str):
    once = convert(source, tmp_path / "once", format)
    twice = convert(once, tmp_path / "twice", format)
    files = {path.relative_to(once): path.read_bytes() for path in once.rglob("*") if path.is_file()}
    again = {path.relative_to(twice): path.read_bytes() for path in twice.rglob("*") if path.is_file()}
    assert files == again


def test_a_file_that_is_no_image_is_not_copied(source: DataSource, tmp_path: Path, format: str):
    Path(source.splits["val"].annotations.files[0]).write_text("a secret")
    with pytest.raises(DataError, match="image file cannot be opened: 1"):
        convert(source, tmp_path / "new", format)
    assert not (tmp_path / "new").exists()


def test_missing_and_broken_images_are_named(source: DataSource, tmp_path: Path, format: str):
    folder = convert(source, tmp_path / "new", format)
    files = [Path(file) for file in open_folder(folder).splits["train"].annotations.files]
    files[0].write_bytes(files[0].read_bytes()[:60])
    faults = "\n".join(map(str, check_data(folder).faults))
    assert files[0].name in faults


def test_crowds_are_kept_or_told(source: DataSource, tmp_path: Path, format: str):
    file = Path(source.splits["train"].annotations.place)
    document = json.loads(file.read_text())
    document["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(document))
    told: list[str] = []
    folder = convert(file.parents[1], tmp_path / "new", format, told.append)
    kept = int(open_folder(folder).splits["train"].annotations.ignored.sum())
    assert kept + len(told) == 1
    assert len(open_folder(folder).splits["train"].annotations.boxes) == 11 + kept


def test_an_unknown_target_lists_the_known_ones(source: DataSource, tmp_path: Path, format: str):
    with pytest.raises(
        UsageError, match=rf'no format "{format}x" can be written\. Did you mean "{format}".*coco, huggingface, voc, yolo'
    ):
        convert(source, tmp_path / "new", f"{format}x")
    with pytest.raises(UsageError, match='no format "shapes" can be written'):
        convert(source, tmp_path / "new", "shapes")
