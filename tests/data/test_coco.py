from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.datasets import CocoDetection
from torchvision.ops import box_convert

from kdflow.data.formats import DataSource, describe, open_data
from kdflow.errors import DataError
from tests.data.conftest import BOXES, CATEGORIES, IMAGES


def test_labels_are_contiguous_in_the_order_of_the_category_ids(coco: DataSource):
    assert [row["id"] for row in CATEGORIES] == [7, 3, 90]
    assert coco.classes == ("dog", "cat", "bird")
    samples = {sample.image_id: sample for sample in (coco.splits["train"].dataset[i] for i in range(3))}
    assert samples[5].labels.tolist() == [0]
    assert samples[11].labels.tolist() == [1]
    assert samples[5].boxes.tolist() == [[2.5, 3.0, 12.5, 23.5]]


def test_describe_reads_no_image(coco: DataSource, tmp_path: Path):
    for file in (tmp_path / "coco").glob("*/*.png"):
        file.unlink()
    assert describe("coco", {"root": str(tmp_path / "coco")}) == ("dog", "cat", "bird")


def test_crowds_are_no_training_targets_and_stay_in_the_ground_truth(coco: DataSource):
    split = coco.splits["train"]
    assert 2 not in split.dataset[0].labels
    crowds = [row for row in split.coco["annotations"] if row["iscrowd"]]
    assert [(row["image_id"], row["category_id"], row["bbox"], row["area"]) for row in crowds] == [
        (11, 2, [0, 0, 30, 20], 600)
    ]
    assert len(split.coco["annotations"]) == 3


def test_images_without_boxes_are_kept(coco: DataSource):
    split = coco.splits["train"]
    sample = split.dataset[2]
    assert (sample.image_id, sample.boxes.shape, sample.labels.shape) == (8, (0, 4), (0,))
    assert [row["id"] for row in split.coco["images"]] == [11, 5, 8]


def test_torchvisions_reader_gives_the_same_images_and_boxes(coco: DataSource, tmp_path: Path):
    root = tmp_path / "coco"
    with contextlib.redirect_stdout(io.StringIO()):
        reader = CocoDetection(root / "train", root / "annotations/instances_train.json")
    category = {3: 0, 7: 1, 90: 2}
    ours = {sample.image_id: sample for sample in (coco.splits["train"].dataset[i] for i in range(3))}
    assert sorted(ours) == reader.ids
    for image_id, (image, rows) in zip(reader.ids, reader):
        sample, targets = ours[image_id], [row for row in rows if not row["iscrowd"]]
        assert torch.equal(sample.image, torch.from_numpy(np.array(image)).permute(2, 0, 1))
        theirs = box_convert(torch.tensor([row["bbox"] for row in targets]).reshape(-1, 4), "xywh", "xyxy")
        assert sample.boxes.tolist() == theirs.tolist()
        assert sample.labels.tolist() == [category[row["category_id"]] for row in targets]


def test_perfect_detections_on_the_ground_truth_score_one(coco: DataSource):
    truth = COCO()
    truth.dataset = coco.splits["val"].coco
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes(
            [
                {"image_id": row["image_id"], "category_id": row["category_id"], "bbox": row["bbox"], "score": 0.9}
                for row in truth.dataset["annotations"]
                if not row["iscrowd"]
            ]
        )
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_a_split_that_lists_its_categories_in_another_order_gets_the_same_labels(write_coco: Callable[..., Path]):
    write_coco("val")
    root = write_coco(
        "train", categories=[{"id": 90, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 7, "name": "bird"}]
    )
    source = open_data("coco", {"root": str(root)})
    assert source.classes == ("dog", "cat", "bird")
    assert source.splits["train"].dataset[0].labels.tolist() == [2]


def test_a_class_that_only_the_training_file_has_is_named(write_coco: Callable[..., Path]):
    write_coco("val", categories=CATEGORIES[:2], boxes=[])
    source = open_data("coco", {"root": str(write_coco("train"))})
    with pytest.raises(
        DataError, match=r"instances_train.json  unknown class: bird \(the validation file lists dog, cat\)"
    ):
        source.splits["train"]


def test_test_falls_back_to_validation_and_says_so(coco: DataSource, write_coco: Callable[..., Path]):
    assert coco.two_splits
    assert coco.splits["test"] is coco.splits["val"]
    assert coco.splits["test"].name == "val"
    three = open_data("coco", {"root": str(write_coco("test", images=IMAGES[:1], boxes=BOXES[1:]))})
    assert not three.two_splits
    assert len(three.splits["test"]) == 1


def test_files_may_be_named(write_coco: Callable[..., Path]):
    root = write_coco("one")
    files = {"annotations": "annotations/instances_one.json", "images": "one"}
    source = open_data("coco", {"root": str(root), "train": files, "val": files})
    assert len(source.splits["train"]) == 3


def test_other_usual_layouts_are_found(write_coco: Callable[..., Path]):
    root = write_coco("train")
    (root / "valid").mkdir()
    for file in (root / "annotations/instances_train.json", *(root / "train").iterdir()):
        name = "_annotations.coco.json" if file.suffix == ".json" else file.name
        (root / "valid" / name).symlink_to(file)
    assert len(open_data("coco", {"root": str(root)}).splits["val"]) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read: not JSON"),
        ("[]", "not one object"),
        ('{"images": []}', "annotations and categories is missing"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "needs an id and a name"),
        (
            json.dumps({"images": [], "annotations": [], "categories": [{"id": i, "name": "x"} for i in (1, 2)]}),
            "twice: x",
        ),
    ],
)
def test_a_broken_annotation_file_is_one_clear_error(write_coco: Callable[..., Path], text: str, words: str):
    write_coco("train")
    root = write_coco("val")
    (root / "annotations/instances_val.json").write_text(text)
    with pytest.raises(DataError, match=words):
        describe("coco", {"root": str(root)})


def test_missing_folder_and_missing_split_are_named(tmp_path: Path, write_coco: Callable[..., Path]):
    with pytest.raises(DataError, match="there is no folder"):
        describe("coco", {"root": str(tmp_path / "nowhere")})
    with pytest.raises(DataError, match="no annotation file"):
        describe("coco", {"root": str(tmp_path)})
    with pytest.raises(DataError, match=r"data.val: training needs a train and a val split; found train"):
        describe("coco", {"root": str(write_coco("train"))})
