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
        'data.rot: unknown key. Did you mean "root"? (known: bad_boxes, exif, hold_out, max_pixels, root, test, train, val)'
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


def test_held_out_images_are_the_same_everywhere_and_in_one_split_only(write_coco: Callable[..., Path], tmp_path: Path):
    root = write_coco("train", [(k, f"{k}.png", 20, 30) for k in range(1, 21)], [])
    shares = {"val": 0.2, "test": 0.1}

    def names(folder: Path) -> dict[str, set[str]]:
        splits = open_data("coco", {"root": str(folder), "hold_out": shares}).splits
        return {name: set(splits.read(name).names) for name in splits.existing}

    found = names(root)
    assert {name: len(part) for name, part in found.items()} == {"train": 14, "val": 4, "test": 2}
    assert set().union(*found.values()) == {f"{k}.png" for k in range(1, 21)}
    moved = root.rename(tmp_path / "elsewhere")
    assert names(moved) == found
    assert describe("coco", {"root": str(moved), "hold_out": shares}) == ("dog", "cat", "bird")


def test_held_out_images_keep_their_boxes(write_coco: Callable[..., Path]):
    write_coco("train")
    whole = open_data("coco", {"root": str(write_coco("train"))}).splits.read("train")
    splits = open_data("coco", {"root": str(write_coco("train")), "hold_out": {"val": 0.4}}).splits
    assert (len(splits.read("train")), len(splits.read("val"))) == (2, 1)
    for part in map(splits.read, splits.existing):
        for index, name in enumerate(part.names):
            other = whole.names.index(name)
            assert part.boxes[part.rows(index)].tolist() == whole.boxes[whole.rows(other)].tolist()
            assert part.ids[index] == whole.ids[other]


@pytest.mark.parametrize(
    ("splits", "shares", "words"),
    [
        (("train", "val"), {"val": 0.1}, "data.hold_out.val: the data set has a val split"),
        (("train",), {"val": 0.6, "test": 0.5}, "data.hold_out: val and test together must lie between 0 and 1"),
        (("train",), {}, "data.hold_out: val and test together must lie between 0 and 1"),
        (("val",), {"test": 0.1}, "there is no train split to hold out of"),
    ],
)
def test_wrong_shares_are_refused(write_coco: Callable[..., Path], splits: tuple[str, ...], shares: dict[str, float], words: str):
    for split in splits:
        root = write_coco(split)
    with pytest.raises((UsageError, DataError)) as caught:
        describe("coco", {"root": str(root), "hold_out": shares})
    assert words in str(caught.value)


def test_the_fingerprint_knows_the_pixels_and_not_the_place(coco: DataSource, tmp_path: Path):
    before = coco.fingerprint
    moved = (tmp_path / "coco").rename(tmp_path / "moved")
    assert open_data("coco", {"root": str(moved)}).fingerprint == before
    (moved / "train/a.png").write_bytes((moved / "train/b.png").read_bytes())
    assert open_data("coco", {"root": str(moved)}).fingerprint != before
