from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.mask import encode, toBbox

from kdflow.data.annotations import Trouble
from kdflow.data.check import check_data, require_ready
from kdflow.data.convert import convert
from kdflow.data.formats import DataSource, open_data
from kdflow.data.transforms import Geometry
from kdflow.errors import DataError
from tests.data.conftest import BOXES, IMAGES, save_image

Write = Callable[..., Path]


def box(*xywh: float, image: Any = 5, category: Any = 3) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(xywh), "iscrowd": 0}


def source_with(write_coco: Write, *extra: dict[str, Any], images: Any = IMAGES, **options: Any) -> DataSource:
    write_coco("val", images=[(1, "only-val.png", 9, 9)], boxes=[box(1, 2, 6, 6, image=1)])
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
            'image id that is not a whole number from 0 on: 1, for example "x" (text.png)',
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
    report = check_data(tmp_path / "coco")
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
    assert notes["boxes cut at the border by bad_boxes: repair"] == 1
    assert notes["boxes left out by bad_boxes: repair"] == 4


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
        report = check_data(folder)
        assert (report.format, report.classes) == ("voc", ("ant", "zebra"))
        assert [split.split for split in report.splits] == ["train", "test"]
        assert [finding.what for finding in report.faults] == ["box outside its image"]


def test_a_folder_of_neither_kind_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"neither a COCO folder .* nor a VOC folder"):
        check_data(tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        check_data(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("crowd", "counted"), [("0", 3), (0.0, 3), (False, 3), (None, 3), ("1", 2), (1.0, 2), ("true", 2)]
)
def test_an_unmistakable_mark_of_a_crowd_is_taken(write_coco: Write, crowd: Any, counted: int):
    source = source_with(write_coco, {**box(1, 1, 9, 9), "iscrowd": crowd})
    report = check_data(source)
    assert report.faults == ()
    assert report.splits[0].boxes == counted


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("iscrowd", "yes", 'iscrowd "yes" in b.png: 0 or 1 is expected'),
        ("iscrowd", 2, "iscrowd 2 in b.png"),
        ("iscrowd", "", 'iscrowd "" in b.png'),
        ("iscrowd", [], "iscrowd [] in b.png"),
        ("area", "large", 'area "large" in b.png: a number from 0 on is expected'),
        ("area", -1, "area -1 in b.png"),
        ("bbox", [1, 2, "x", 4], 'bbox [1, 2, "x", 4] in b.png: [x, y, width, height] is expected'),
        ("bbox", [1, 2, True, 4], "bbox [1, 2, true, 4]"),
        ("bbox", {"x": 1}, 'bbox {"x": 1}'),
        ("bbox", "1 2 3 4", 'bbox "1 2 3 4"'),
    ],
)
def test_any_other_value_is_a_fault_that_shows_it(write_coco: Write, key: str, value: Any, words: str):
    source = source_with(write_coco, {**box(1, 1, 9, 9), key: value})
    assert f"value that cannot be taken: 1, for example {words}" in str(check_data(source))
    with pytest.raises(DataError, match="value that cannot be taken: 1"):
        source.splits["train"]


@pytest.mark.parametrize("row", [7, None, "x", [1]])
def test_entries_that_are_no_objects_are_faults(write_coco: Write, row: Any):
    root = write_coco("train")
    file = root / "annotations/instances_train.json"
    document = json.loads(file.read_text())
    for key in ("images", "annotations"):
        file.write_text(json.dumps({**document, key: [*document[key], row]}))
        assert f"{json.dumps(row)} as an entry of {key}" in str(check_data(root))


def test_numbers_as_text_are_taken(write_coco: Write):
    source = source_with(
        write_coco, {"image_id": "5", "category_id": 3.0, "bbox": ["1", "2.5", "9", 9.0], "iscrowd": 0}
    )
    assert check_data(source).faults == ()
    assert [1, 2.5, 9, 9] in source.splits["train"].annotations.boxes.tolist()


@pytest.mark.parametrize(
    ("image", "known"), [(True, False), (2**63, False), (10**400, False), ("x", False), (5.0, True)]
)
def test_ids_are_whole_numbers_and_truth_values_are_none(write_coco: Write, image: Any, known: bool):
    images = [*IMAGES, (1, "one.png", 9, 9)]
    faults = check_data(source_with(write_coco, box(1, 1, 2, 2, image=image), images=images)).faults
    assert ["box of an image that is not listed" in str(fault) for fault in faults] == [True] * (not known)


@pytest.mark.parametrize("key", [2**63, 10**400, -1, True, None, 1.5, "x", [1]])
def test_image_ids_that_cannot_be_taken_are_shown(write_coco: Write, key: Any):
    images = [*IMAGES, (key, "other.png", 9, 9)]
    faults = check_data(source_with(write_coco, images=images)).faults
    assert any(fault.what == Trouble.IMAGE_ID and "other.png" in str(fault) for fault in faults)


@pytest.mark.parametrize("side", ["wide", 10**400, 2**31, 30.5, -30, True, 1e300])
def test_sizes_that_cannot_be_taken_are_shown(write_coco: Write, side: Any):
    root = write_coco("train")
    file = root / "annotations/instances_train.json"
    document = json.loads(file.read_text())
    document["images"][0]["width"] = side
    file.write_text(json.dumps(document))
    (fault,) = check_data(root).faults
    assert fault.what == Trouble.NO_SIZE
    assert "a.png (height 20, width " in str(fault)


@pytest.mark.parametrize("name", [None, 5, "", "a\0b", "line\nend"])
def test_file_names_that_cannot_be_taken_are_one_fault_each(write_coco: Write, name: Any):
    root = write_coco("train")
    file = root / "annotations/instances_train.json"
    document = json.loads(file.read_text())
    document["images"][1]["file_name"] = name
    file.write_text(json.dumps(document))
    (fault,) = check_data(root).faults
    assert str(fault).startswith(
        f"{file}  value that cannot be taken: 1, for example file_name {json.dumps(name)} of image 5"
    )


def test_boxes_are_taken_from_polygons_and_run_lengths(write_coco: Write):
    polygons = [[[2, 3, 12, 3, 12, 23.5]], [[1, 1, 5, 1, 5, 4], [8, 8, 20, 8, 20, 30]]]
    mask = np.zeros((40, 24), dtype=np.uint8, order="F")
    mask[4:30, 5:9] = mask[8, 3] = 1
    encoded = encode(mask)
    runs = np.diff(np.flatnonzero(np.diff(mask.flatten(order="F"), prepend=0, append=2)), prepend=0).tolist()
    shapes = [*polygons, {"size": [40, 24], "counts": encoded["counts"].decode()}, {"size": [40, 24], "counts": runs}]
    extra = [{"image_id": 5, "category_id": 3, "segmentation": shape} for shape in shapes]
    source = source_with(write_coco, *extra)
    assert source.splits["train"].annotations.boxes.tolist()[-4:] == [
        [2, 3, 10, 20.5],
        [1, 1, 19, 29],
        [3, 4, 6, 26],
        toBbox(encoded).tolist(),
    ]
    assert "boxes taken from polygons (no bbox is written): 4, for example b.png" in str(check_data(source))


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        (None, "annotation 103 of b.png has no bbox"),
        ([], "annotation 103 of b.png has no bbox, segmentation []"),
        ([[1, 2, 3]], "segmentation [[1, 2, 3]]"),
        ([[1, 2, 3, "x", 5, 6]], "segmentation"),
        ({"size": [40, 24], "counts": "abc"}, "segmentation"),
        ({"size": [40, 24], "counts": [960]}, "segmentation"),
        ({"size": [10**30, 24], "counts": [1]}, "segmentation"),
    ],
)
@pytest.mark.parametrize("bad_boxes", ["stop", "repair"])
def test_without_box_and_polygon_the_missing_key_is_named_and_nothing_is_dropped(
    write_coco: Write, segmentation: Any, words: str, bad_boxes: str
):
    row = {"image_id": 5, "category_id": 3} | ({} if segmentation is None else {"segmentation": segmentation})
    source = source_with(write_coco, row, bad_boxes=bad_boxes)
    (fault,) = check_data(source).faults
    assert fault.what == Trouble.NO_BOX
    assert words in str(fault)
    assert "repair" not in str(fault)
    assert "write bbox" in str(fault)


def test_what_repair_cuts_and_leaves_out_is_told_before_a_run(write_coco: Write):
    source = source_with(write_coco, box(20, 30, 8, 4), box(9, 9, 0, 4), bad_boxes="repair")
    told = "\n".join(map(str, require_ready(source, Geometry())))
    assert "boxes left out by bad_boxes: repair: 1, for example b.png: dog at [9, 9, 0, 4]" in told
    assert "boxes cut at the border by bad_boxes: repair: 1, for example b.png: dog at [20, 30, 8, 4]" in told


def test_boxes_that_vanish_at_the_training_size_are_counted_and_told(write_coco: Write):
    source = source_with(write_coco, box(3, 3, 1.5, 9), box(5, 5, 9, 9), box(23.9, 3, 1.9, 9))
    geometry = Geometry(size=12, max_size=12)  # b.png, 24x40, becomes 7x12
    words = "boxes below one pixel at size 12 (max_size 12) (left out in training): 2, for example b.png: dog at [3, 3, 1.5, 9]"
    assert words in str(check_data(source, geometry=geometry))
    assert words in "\n".join(map(str, require_ready(source, geometry)))
    dataset = source.splits["train"].dataset
    kept = sum(len(dataset.resized(index, geometry).labels) for index in range(len(dataset)))
    assert kept == check_data(source).splits[0].boxes - 2
    large = check_data(source, geometry=Geometry(size=48, max_size=90)).splits[0].findings
    assert ["below one pixel" in finding.what for finding in large].count(True) == 1  # 0.1 pixels inside the image
    assert "(left out in training): 1, for example b.png: dog at [23.9, 3, 1.9, 9]" in "\n".join(map(str, large))


def test_shares_of_the_image_instead_of_pixels_are_a_fault(write_coco: Write):
    shares = [{**box(0.1, 0.2, 0.5, 0.7, image=image), "category_id": 3} for image in (5, 11)]
    write_coco("val", boxes=shares)
    source = open_data("coco", {"root": str(write_coco("train", boxes=shares))})
    faults = [fault.what for fault in check_data(source).faults]
    assert faults.count(Trouble.NORMALISED) == 2
    with pytest.raises(DataError, match=r"boxes in 0\.\.1 instead of pixels: 2"):
        source.splits["train"]


@pytest.mark.parametrize(
    ("boxes", "size", "words"),
    [
        ([], 800, "no boxes to learn from: 1"),
        ([{**box(1, 1, 9, 9), "iscrowd": 1}], 800, "no boxes to learn from: 1"),
        ([box(1, 1, 3, 3)], 4, "no boxes to learn from: 1, for example all 1 are below one pixel at size 4"),
    ],
)
def test_a_training_split_without_targets_is_a_fault(write_coco: Write, boxes: Any, size: int, words: str):
    write_coco("val", images=[(1, "only-val.png", 9, 9)], boxes=[box(1, 2, 6, 6, image=1)])
    source = open_data("coco", {"root": str(write_coco("train", boxes=boxes))})
    geometry = Geometry(size=size, max_size=2 * size)
    assert words in str(check_data(source, geometry=geometry))
    with pytest.raises(DataError, match=words):
        require_ready(source, geometry)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("boxes", [[], [{**box(1, 2, 6, 6, image=1), "iscrowd": 1}]])
def test_a_split_without_objects_cannot_be_measured_on(write_coco: Write, split: str, boxes: Any):
    for name in ("train", "val", "test"):
        write_coco(
            name, images=[(1, f"{name}.png", 9, 9)], boxes=boxes if name == split else [box(1, 2, 6, 6, image=1)]
        )
    source = open_data("coco", {"root": str(write_coco("train"))})
    with pytest.raises(
        DataError, match=rf"instances_{split}\.json  no objects to measure on: 1\. Next: average precision"
    ):
        require_ready(source, Geometry())
    assert [fault.what for fault in check_data(source).faults] == [Trouble.NO_OBJECTS]


def test_images_that_no_split_lists_are_counted(write_coco: Write):
    source = source_with(write_coco)
    folder = Path(source.splits["train"].annotations.folders[0])
    assert check_data(source).across == ()
    save_image(folder / "forgotten.png", 9, 9)
    (folder / "notes.txt").write_text("no image")
    words = "train and val  image files beside those of the splits, in none of them: 1, for example forgotten.png"
    assert [str(finding) for finding in check_data(source).across] == [words]
    assert f"note   {words}\nno problems" in str(check_data(source))


def test_a_metric_of_a_size_that_no_object_has_is_a_fault(write_coco: Write):
    source = source_with(write_coco)
    assert require_ready(source, Geometry(), ["AP", "AP_S", "step_ms"]) == ()
    words = "no objects to measure on: 2, for example AP_M counts areas of 1024 to 9216 pixels; AP_L"
    with pytest.raises(DataError, match=words):
        require_ready(source, Geometry(), ["AP_S", "AP_M", "AP_L"])


@pytest.mark.parametrize(
    "name", ["../../secret.png", "/SECRET", "sub/../../../secret.png", "link.png", "linked/secret.png"]
)
def test_files_outside_the_data_set_are_refused_and_never_opened(write_coco: Write, tmp_path: Path, name: str):
    save_image(tmp_path / "secret.png", 9, 9)
    name = name.replace("/SECRET", str(tmp_path / "secret.png"))
    root = write_coco("val", images=[(2, "val.png", 9, 9)], boxes=[box(1, 2, 6, 6, image=2)])
    write_coco("train", images=[(1, "in.png", 9, 9)], boxes=[box(1, 2, 6, 6, image=1)])
    (root / "train/link.png").symlink_to(tmp_path / "secret.png")
    (root / "train/linked").symlink_to(tmp_path)
    file = root / "annotations/instances_train.json"
    file.write_text(file.read_text().replace('"in.png"', json.dumps(name)))
    (fault,) = [fault for fault in check_data(root).faults if fault.what != Trouble.NO_TARGETS]
    assert f"image file outside the data set: 1, for example {name}" in str(fault)
    with pytest.raises(DataError, match="image file outside the data set"):
        convert(root, tmp_path / "new", "coco")
    assert not (tmp_path / "new").exists()


def test_an_image_folder_may_be_a_link(write_coco: Write, tmp_path: Path):
    root = write_coco("train")
    (root / "train").rename(tmp_path / "elsewhere")
    (root / "train").symlink_to(tmp_path / "elsewhere")
    assert check_data(root).faults == ()


def test_values_of_a_broken_set_never_overflow(write_coco: Write):
    huge = [
        box(1e308, 1e308, 1e308, 1e308),
        box(10**400, 1, 1, 1),
        box(1e15, 1e15, 1e15, 1e15),
        box(-1e308, 0, 1e308, 9),
    ]
    for bad_boxes in ("stop", "repair"):
        assert check_data(source_with(write_coco, *huge, bad_boxes=bad_boxes)).splits[0].images == 3
