from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdflow.data.formats import DATASETS, DataSource, FormatOptions, describe, open_data
from kdflow.errors import DataError, UsageError
from kdflow.registry import UnknownNameError


def test_formats_register_themselves():
    assert {"coco", "shapes", "voc"} <= set(DATASETS.names())
    for name in DATASETS:
        part = DATASETS.get(name)
        assert issubclass(part.options, FormatOptions)
        assert part.doc


def test_an_unknown_format_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match=r'no data format "cocoo"\. Did you mean "coco"'):
        open_data("cocoo", {})


def test_every_wrong_key_is_reported_at_once():
    with pytest.raises(UsageError) as caught:
        describe("coco", {"rot": "x", "train": {"annotations": 3, "image": "y"}, "bad_boxes": "ignore"})
    lines = str(caught.value).splitlines()
    assert (
        'data.rot: unknown key. Did you mean "root"? (known: bad_boxes, exif, max_pixels, root, test, train, val)'
        in lines
    )
    assert "data.root: this key is missing" in lines
    assert "data.train.annotations: input should be a valid string (got 3)" in lines
    assert any(line.startswith("data.train.image: unknown key") for line in lines)
    assert "data.train.images: this key is missing" in lines
    assert any(line.startswith("data.bad_boxes: input should be 'stop' or 'repair'") for line in lines)


def test_splits_are_read_when_asked_for(coco: DataSource, tmp_path: Path):
    (tmp_path / "coco/annotations/instances_train.json").write_text("{")
    assert len(coco.splits["val"]) == 3
    with pytest.raises(DataError, match="not JSON"):
        coco.splits["train"]
    with pytest.raises(KeyError):
        coco.splits["training"]


def test_a_folder_without_validation_says_so_when_it_is_needed(write_coco: Callable[..., Path]):
    source = open_data("coco", {"root": str(write_coco("train"))})
    assert len(source.splits["train"]) == 3
    with pytest.raises(DataError, match=r'no "val" split, only train\. Next: name it in data\.val'):
        source.splits["test"]


def test_the_fingerprint_changes_with_boxes_and_images_only(write_coco: Callable[..., Path]):
    def fingerprint() -> str:
        return open_data("coco", {"root": str(root)}).fingerprint

    write_coco("val")
    root = write_coco("train")
    first = fingerprint()
    assert fingerprint() == first
    file = root / "annotations/instances_train.json"
    text = file.read_text()
    file.write_text(text.replace("20.5", "20.6"))
    changed = fingerprint()
    file.write_text(text.replace("sub/c.png", "sub/d.png"))
    assert len({first, changed, fingerprint()}) == 3
