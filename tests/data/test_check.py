from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdflow.data.check import check_data, check_folder
from kdflow.data.formats import DataSource, open_data
from kdflow.errors import DataError
from tests.data.conftest import BOXES, IMAGES, save_image

Write = Callable[..., Path]


def box(*xywh: float, image: Any = 5, category: Any = 3) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(xywh), "iscrowd": 0}


def source_with(write_coco: Write, *extra: dict[str, Any], images: Any = IMAGES, **options: Any) -> DataSource:
    write_coco("val", images=[(1, "only-val.png", 9, 9)], boxes=[])
    return open_data("coco", {"root": str(write_coco("train", images=images, boxes=[*BOXES, *extra])), **options})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            box(3, 3, float("nan"), 4),
            "box without four finite numbers: 1, for example b.png: dog at [nan, nan, nan, nan]",
        ),
        (box(3, 3, 4), "box without four finite numbers: 1"),
        (box(3, 3, float("inf"), 4), "box without four finite numbers: 1"),
        (box(9, 9, -4, 4), "inverted box (negative width or height): 1, for example b.png: dog at [9, 9, -4, 4]"),
        (box(9, 9, 0, 4), "empty box (no width or no height): 1"),
        (box(20, 30, 8, 4), "box outside its image: 1, for example b.png: dog at [20, 30, 8, 4] (x, y, w, h) in 24x40"),
        (box(-2.5, 3, 5, 5), "box outside its image: 1"),
        (box(1, 1, 2, 2, category=4), "unknown class: 1, for example category_id 4 in b.png"),
        (box(1, 1, 2, 2, image=77), "box of an image that is not listed: 1, for example image_id 77 of annotation 103"),
    ],
)
def test_a_wrong_box_stops_training_in_the_words_of_the_check(write_coco: Write, wrong: dict[str, Any], words: str):
    source = source_with(write_coco, wrong)
    report = check_data(source)
    assert [finding.split("  ")[1].startswith(words) for finding in map(str, report.faults)] == [True]
    with pytest.raises(DataError) as training:
        source.splits["train"]
    with pytest.raises(DataError) as checking:
        report.raise_faults()
    assert str(training.value) == str(checking.value)
    assert str(training.value).endswith("1 problem in the data, nothing was run.")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([*IMAGES, (5, "twice.png", 9, 9)], "image id used twice: 1, for example 5 (b.png and twice.png)"),
        (
            [*IMAGES, ("x", "text.png", 9, 9)],
            "image id that is not a whole number from 0 on: 1, for example 'x' (text.png)",
        ),
        ([*IMAGES, (6, "a.png", 20, 30)], "image file listed twice: 2, for example a.png; a.png"),
    ],
)
def test_wrong_images_are_named(write_coco: Write, images: Any, words: str):
    report = check_data(source_with(write_coco, images=images))
    assert any(words in str(finding) for finding in report.faults)


def test_missing_files_are_found_without_opening_any(
    write_coco: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = source_with(write_coco)
    (tmp_path / "coco/train/sub/c.png").unlink()
    monkeypatch.setattr("PIL.Image.open", lambda *_: pytest.fail("opened"))
    with pytest.raises(
        DataError, match=r"image file missing: 1, for example sub/c\.png\. Next: check the image folder"
    ):
        source.splits["train"]


def test_opening_images_finds_broken_files_and_wrong_sizes(write_coco: Write, tmp_path: Path):
    source = source_with(write_coco)
    save_image(tmp_path / "coco/train/a.png", 30, 20)
    whole = (tmp_path / "coco/train/b.png").read_bytes()
    (tmp_path / "coco/train/b.png").write_bytes(whole[: len(whole) // 2])
    text = str(check_data(source))
    assert "image file cannot be opened: 1, for example b.png (" in text
    assert "image size differs from the annotation: 1, for example a.png is 20x30, annotated 30x20" in text
    assert text.endswith("2 problems")
    assert check_data(source, files=False).faults == ()


def test_a_good_folder_is_counted(coco: DataSource, tmp_path: Path):
    (tmp_path / "coco/annotations/instances_val.json").unlink()
    report = check_folder(tmp_path / "coco")
    assert report.faults == ()
    split = report.splits[0]
    assert (split.images, split.boxes, split.per_class) == (3, 2, {"cat": 1, "dog": 1, "bird": 0})
    notes = {finding.what: finding.count for finding in split.findings}
    assert notes == {"images without boxes": 1, "crowds and difficult objects (no training targets)": 1}
    assert str(report).endswith("no problems")


def test_a_little_over_the_border_is_cut_and_noted(write_coco: Write):
    source = source_with(write_coco, box(20, 30, 5.5, 11))
    assert source.splits["train"].dataset[1].boxes.shape == (2, 4)
    notes = [finding for finding in check_data(source).splits[0].findings if "over the border" in finding.what]
    assert [finding.count for finding in notes] == [1]


def test_repair_cuts_boxes_outside_and_leaves_out_the_rest(write_coco: Write):
    wrong = [box(20, 30, 8, 4), box(9, 9, 0, 4), box(9, 9, -1, 4), box(3, 3, 4), box(30, 3, 8, 4)]
    source = source_with(write_coco, *wrong, bad_boxes="repair")
    kept = [row["bbox"] for row in source.splits["train"].coco["annotations"] if row["image_id"] == 5]
    assert kept == [[2.5, 3.0, 10.0, 20.5], [20, 30, 4, 4]]
    notes = {finding.what: finding.count for finding in check_data(source).splits[0].findings}
    assert notes["boxes cut or left out by bad_boxes: repair"] == 5


def test_an_image_in_two_splits_is_a_fault(write_coco: Write):
    root = write_coco("train")
    files = {"annotations": "annotations/instances_train.json", "images": "train"}
    report = check_data(open_data("coco", {"root": str(root), "train": files, "val": files}))
    assert [str(finding) for finding in report.faults] == [
        "train and val  image in two splits: 3, for example a.png; b.png; c.png. "
        "Next: what is trained on must not be evaluated on; remove it from one of them"
    ]


def test_a_split_without_images_is_a_fault(write_coco: Write):
    write_coco("val", images=[], boxes=[])
    source = open_data("coco", {"root": str(write_coco("train"))})
    with pytest.raises(DataError, match="no images: 1"):
        source.splits["val"]


def test_a_voc_folder_is_recognised_with_its_own_classes(write_voc: Write):
    write_voc("VOC2007", "trainval", {"a": [("zebra", (3, 5, 12, 14), 0)], "b": []})
    root = write_voc("VOC2007", "test", {"c": [("ant", (3, 5, 12, 200), 0)]})
    for folder in (root, root / "VOC2007"):
        report = check_folder(folder)
        assert (report.format, report.classes) == ("voc", ("ant", "zebra"))
        assert [split.split for split in report.splits] == ["train", "test"]
        assert [finding.what for finding in report.faults] == ["box outside its image"]


def test_a_folder_of_neither_kind_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"neither a COCO folder .* nor a VOC folder"):
        check_folder(tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        check_folder(tmp_path / "nowhere")
