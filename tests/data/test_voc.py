from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import VOCDetection

from kdflow.data.formats import DATASETS, describe, open_data
from kdflow.data.voc import VOC_CLASSES
from kdflow.errors import DataError
from tests.data.conftest import save_image

DOG, CAT = ("dog", (3, 5, 12, 14), 0), ("cat", (1, 1, 30, 20), 1)


def both_years(write_voc: Callable[..., Path]) -> dict[str, object]:
    write_voc("VOC2007", "trainval", {"000001": [DOG], "000002": []})
    write_voc("VOC2012", "trainval", {"2008_000001": [CAT, DOG]})
    root = write_voc("VOC2007", "test", {"000003": [DOG, CAT]})
    return {"root": str(root), "train": ["VOC2007/trainval", "VOC2012/trainval"], "val": "VOC2007/test"}


def test_several_years_make_one_split(write_voc: Callable[..., Path]):
    source = open_data("voc", both_years(write_voc))
    assert source.classes == VOC_CLASSES
    assert source.two_splits
    assert [Path(name).stem for name in source.splits["train"].annotations.names] == ["000001", "000002", "2008_000001"]
    assert source.splits["train"].annotations.ids.tolist() == [1, 2, 3]
    assert len(source.splits["test"]) == 1


def test_corners_count_from_one_inclusive_unless_told_otherwise(write_voc: Callable[..., Path]):
    options = both_years(write_voc)
    assert open_data("voc", options).splits["train"].dataset[0].boxes.tolist() == [[2, 4, 12, 14]]
    exclusive = open_data("voc", {**options, "one_based": False})
    assert exclusive.splits["train"].dataset[0].boxes.tolist() == [[3, 5, 12, 14]]


def test_difficult_objects_are_no_targets_and_marked_for_evaluation(write_voc: Callable[..., Path]):
    split = open_data("voc", both_years(write_voc)).splits["train"]
    assert [VOC_CLASSES[label] for label in split.dataset[2].labels] == ["dog"]
    marks = {
        VOC_CLASSES[row["category_id"]]: row["iscrowd"] for row in split.coco["annotations"] if row["image_id"] == 3
    }
    assert marks == {"cat": 1, "dog": 0}


def test_torchvisions_reader_gives_the_same_images_and_boxes(write_voc: Callable[..., Path]):
    options = both_years(write_voc)
    ours = open_data("voc", options).splits["val"].dataset[0]
    image, target = VOCDetection(Path(str(options["root"])).parent, year="2007", image_set="test")[0]
    assert torch.equal(ours.image, torch.from_numpy(np.array(image)).permute(2, 0, 1))
    easy = [item for item in target["annotation"]["object"] if item["difficult"] == "0"]
    corners = [[float(item["bndbox"][k]) for k in ("xmin", "ymin", "xmax", "ymax")] for item in easy]
    assert ours.boxes.tolist() == [[left - 1, top - 1, right, bottom] for left, top, right, bottom in corners]


def test_an_image_may_have_another_suffix_and_an_annotation_no_size(write_voc: Callable[..., Path]):
    root = write_voc("mine", "train", {"a": [DOG]})
    folder = root / "mine"
    (folder / "JPEGImages/a.jpg").unlink()
    save_image(folder / "JPEGImages/a.png", 18, 25)
    text = (folder / "Annotations/a.xml").read_text()
    start, end = text.index("<size>"), text.index("</size>") + len("</size>")
    (folder / "Annotations/a.xml").write_text((text[:start] + text[end:]).replace("a.jpg", "a.png"))
    split = open_data("voc", {"root": str(folder), "train": "train", "val": "train"}).splits["train"]
    assert split.dataset[0].original_size == (18, 25)


def test_class_names_come_from_the_option_then_the_file_then_voc(write_voc: Callable[..., Path]):
    root = write_voc("mine", "train", {"a": [("hard hat", (3, 5, 12, 14), 0)]}) / "mine"
    options = {"root": str(root), "train": "train", "val": "train"}
    with pytest.raises(DataError, match=r'unknown class: 1, for example "hard hat" in a\.xml'):
        open_data("voc", options).splits["train"]
    (root / "classes.txt").write_text("vest\nhard hat\n")
    assert open_data("voc", options).splits["train"].dataset[0].labels.tolist() == [1]
    assert describe("voc", {**options, "classes": ["hard hat"]}) == ("hard hat",)


def test_missing_image_sets_are_named(write_voc: Callable[..., Path]):
    options = both_years(write_voc)
    with pytest.raises(DataError, match=r"data.val: no image set VOC2007/val: there is no file .*Main/val.txt"):
        describe("voc", {**options, "val": "VOC2007/val"})
    with pytest.raises(DataError, match="name the image sets"):
        describe("voc", {"root": options["root"]})


def test_broken_xml_and_missing_xml_are_named(write_voc: Callable[..., Path]):
    options = both_years(write_voc)
    annotations = Path(str(options["root"])) / "VOC2007/Annotations"
    (annotations / "000001.xml").write_text("<annotation>")
    (annotations / "000002.xml").unlink()
    with pytest.raises(
        DataError, match=r"annotation file cannot be read: 2, for example 000001.xml \(not XML.*000002.xml"
    ):
        open_data("voc", options).splits["train"]


def test_a_star_stands_for_all_annotations_of_a_folder(write_voc: Callable[..., Path]):
    root = write_voc("VOC2007", "train", {"b": [("cat", (1, 1, 9, 9), 0)], "a": []})
    for name in ("ImageSets/Main/train.txt",):
        (root / "VOC2007" / name).unlink()
    options = DATASETS.get("voc").find(root / "VOC2007")
    assert options == {"root": str(root / "VOC2007"), "train": ("*",), "classes": VOC_CLASSES}
    assert open_data("voc", options).splits["train"].annotations.names == ("VOC2007/JPEGImages/a.jpg", "VOC2007/JPEGImages/b.jpg")
    of_year = open_data("voc", {"root": str(root), "train": "VOC2007/*"}).splits["train"]
    assert len(of_year) == 2
