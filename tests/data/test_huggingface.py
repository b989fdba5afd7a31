"""Image folders with ``metadata.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdflow.data.annotations import Trouble
from kdflow.data.check import check_data
from kdflow.data.folders import open_folder
from kdflow.data.formats import DataSource, describe, open_data
from kdflow.errors import DataError
from tests.data.conftest import save_image

Folder = Callable[..., Path]
ROW = {"file_name": "a.jpg", "objects": {"bbox": [[4, 5, 10, 8]], "category": ["dog"]}}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """``folder(*rows, val="validation")``: a.jpg of 20 rows and 40 columns in each split, the rows in train."""

    def write(*rows: Any, train: str = "train", val: str = "validation") -> Path:
        for place, lines in (
            (train, rows or (ROW,)),
            (val, ({**ROW, "objects": {"bbox": [[1, 1, 5, 5]], "category": ["cat"]}},)),
        ):
            save_image(tmp_path / place / "a.jpg", 20, 40)
            text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
            (tmp_path / place / "metadata.jsonl").write_text(text)
        return tmp_path

    return write


def opened(root: Path, **options: Any) -> DataSource:
    return open_data("huggingface", {"root": str(root), **options})


def test_boxes_and_names_are_read_as_written(folder: Folder):
    source = open_folder(folder())
    assert (source.format, source.classes, source.splits.existing) == ("huggingface", ("cat", "dog"), ("train", "val"))
    table = source.splits["train"].annotations
    assert (table.boxes.tolist(), table.labels.tolist(), table.areas.tolist()) == ([[4, 5, 10, 8]], [1], [80])
    assert table.sizes.tolist() == [[20, 40]]
    assert source.splits["train"].dataset[0].boxes.tolist() == [[4, 5, 14, 13]]


@pytest.mark.parametrize(("train", "val"), [("train", "valid"), ("data/train", "data/val"), ("training", "dev")])
def test_usual_names_of_splits(folder: Folder, train: str, val: str):
    assert open_folder(folder(train=train, val=val)).splits.existing == ("train", "val")


def test_a_single_file_is_the_training_split(tmp_path: Path):
    save_image(tmp_path / "sub/a.jpg", 20, 40)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({**ROW, "file_name": "sub/a.jpg"}))
    source = open_folder(tmp_path)
    assert source.splits.existing == ("train",)
    assert len(source.splits["train"].dataset[0].boxes) == 1


def test_numbers_take_their_names_from_the_card_or_the_bench(folder: Folder):
    numbered = {**ROW, "objects": {"bbox": [[4, 5, 10, 8]], "categories": [1]}}
    root = folder(numbered)
    (root / "validation/metadata.jsonl").write_text(json.dumps(numbered))
    with pytest.raises(DataError, match=r"numbers without names\. Next: list them in data\.classes"):
        opened(root)
    assert opened(root, classes=["cow", "sheep"]).splits["train"].annotations.labels.tolist() == [1]
    head = {"dataset_info": {"features": [{"name": "objects", "sequence": [{"name": "categories", "dtype": {
        "class_label": {"names": {"0": "fish", "1": "crab"}}}}]}]}}  # fmt: skip
    (root / "README.md").write_text(f"---\n{json.dumps(head)}\n---\n# A card\n")
    assert opened(root).classes == ("fish", "crab")


def test_corners_where_the_bench_says_so(folder: Folder):
    assert opened(folder(), boxes="xyxy").splits.read("train").boxes.tolist() == [[4, 5, 6, 3]]


def test_a_list_of_objects_and_extra_columns_are_taken(folder: Folder):
    objects = [
        {"bbox": [1, 1, 5, 5], "label": "cat", "area": 20, "iscrowd": "1", "score": 3},
        {"bbox": [0, 0, 9, 9], "label": "dog"},
    ]
    table = opened(folder({"file_name": "a.jpg", "height": 20, "width": 40.0, "objects": objects})).splits.read("train")
    assert (table.areas.tolist(), table.ignored.tolist(), table.problems) == ([20, 81], [True, False], ())


def test_images_without_objects_are_counted(folder: Folder):
    table = opened(folder({"file_name": "a.jpg"}), classes=["cat"]).splits.read("train")
    assert [(note.what, note.count) for note in table.notes] == [("images without objects in their line", 1)]
    empty = opened(folder({"file_name": "a.jpg", "objects": {"bbox": [], "category": []}}, ROW)).splits.read("train")
    assert (len(empty), empty.notes, len(empty.boxes)) == (2, (), 1)


def objects(**columns: Any) -> dict[str, Any]:
    return {"file_name": "a.jpg", "objects": {"bbox": [[1, 1, 5, 5]], "category": ["cat"], **columns}}


@pytest.mark.parametrize(
    ("row", "trouble", "words"),
    [
        (objects(category=["cow"]), Trouble.UNKNOWN_CLASS, '"cow" in a.jpg'),
        (objects(category=[7]), Trouble.UNKNOWN_CLASS, "7 in a.jpg"),
        (objects(category=[True]), Trouble.UNKNOWN_CLASS, "true in a.jpg"),
        (objects(bbox=[[1, 1, 5]]), Trouble.VALUE, "bbox [1, 1, 5] in a.jpg"),
        (objects(bbox=[[1, 1, 5, "x"]]), Trouble.VALUE, "four numbers"),
        (objects(bbox=[]), Trouble.VALUE, "lists of one length"),
        (objects(label=["cat"]), Trouble.VALUE, "one of category, categories, label, labels"),
        (objects(iscrowd=[2]), Trouble.VALUE, "iscrowd 2"),
        (objects(area=[-1]), Trouble.VALUE, "area -1"),
        ({"objects": {}}, Trouble.VALUE, "null as file_name in line 1"),
        ([], Trouble.VALUE, "[] as file_name in line 1"),
        ({**ROW, "file_name": "../x.jpg"}, Trouble.LEAVES, "../x.jpg"),
        ({**ROW, "width": 0, "height": 20}, Trouble.NO_SIZE, "a.jpg (height 20, width 0)"),
    ],
)
def test_what_cannot_be_taken_is_shown(folder: Folder, row: Any, trouble: Trouble, words: str):
    (problem,) = opened(folder(row), classes=["cat", "dog"]).splits.read("train").problems
    assert problem.trouble == trouble
    assert words in problem.example


@pytest.mark.parametrize(
    ("line", "words"), [("{", "line 1: not JSON"), ('{"file_name": "a", "file_name": "b"}', "line 1: the key")]
)
def test_broken_lines_are_named(folder: Folder, line: str, words: str):
    with pytest.raises(DataError, match=words):
        opened(folder(line), classes=["cat"]).splits.read("train")


def test_missing_files_and_folders_are_named(folder: Folder):
    root = folder(ROW, {**ROW, "file_name": "b.jpg"})
    assert [fault.what for fault in check_data(root).faults] == [Trouble.NO_SIZE, Trouble.MISSING_FILE]
    with pytest.raises(DataError, match=r"data\.val: there is no metadata\.jsonl in"):
        describe("huggingface", {"root": str(root), "val": "nowhere"})
    with pytest.raises(DataError, match=r"data\.root: there is no folder"):
        describe("huggingface", {"root": str(root / "nowhere")})
