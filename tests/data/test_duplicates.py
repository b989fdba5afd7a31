"""Pictures and objects that stand twice in a data set, and the page that shows them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.ops import box_iou

from kdflow.data.annotations import Trouble
from kdflow.data.check import check_data
from kdflow.data.duplicates import overlapping, pairwise_iou
from kdflow.data.formats import open_data
from kdflow.data.page import SHOWN, chosen, page
from kdflow.data.transforms import Geometry

Write = Callable[..., Path]


def box(*xywh: float, image: int = 5, category: int = 3) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(xywh), "iscrowd": 0}


def notes(write_coco: Write, *boxes: dict[str, Any], geometry: Geometry | None = None) -> list[str]:
    write_coco("val")
    report = check_data(open_data("coco", {"root": str(write_coco("train", boxes=boxes))}), geometry=geometry)
    return [finding.what for finding in report.splits[0].findings]


def test_an_object_that_is_annotated_twice_is_counted(write_coco: Write):
    same = "pairs of boxes of the same class that overlap by more than 90%"
    other = "pairs of boxes of different classes that overlap by more than 90%"
    assert same in notes(write_coco, box(2, 2, 20, 20), box(2, 2, 20, 20.5))
    assert same not in notes(write_coco, box(2, 2, 20, 20), box(2, 2, 20, 25), box(2, 2, 20, 20, image=11))
    assert other in notes(write_coco, box(2, 2, 20, 20), box(2, 2, 20, 20, category=7))


def test_the_overlap_is_torchvision_s(write_coco: Write):
    import torch

    boxes = np.random.default_rng(0).uniform(1, 50, (7, 4))
    corners = torch.from_numpy(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1))
    assert pairwise_iou(boxes) == pytest.approx(box_iou(corners, corners).numpy())


def test_boxes_below_two_pixels_at_the_input_size_are_told(write_coco: Write):
    found = notes(write_coco, box(2, 2, 3, 9), box(2, 2, 20, 20), geometry=Geometry(12, 1333))
    assert "boxes below one pixel at size 12 (max_size 1333) (left out in training)" not in found
    assert "boxes below two pixels at size 12 (max_size 1333) (hardly to be learned)" in found


def test_one_picture_in_two_splits_is_found_by_its_content(write_coco: Write):
    root = write_coco("train")
    write_coco("val", images=[(1, "other.png", 9, 9)], boxes=[box(1, 1, 5, 5, image=1)])
    source = open_data("coco", {"root": str(root)})
    assert check_data(source).across == ()
    shutil.copy(root / "train/a.png", root / "val/other.png")
    shutil.copy(root / "train/a.png", root / "train/b.png")
    across = check_data(open_data("coco", {"root": str(root)})).across
    assert [(finding.place, finding.what, finding.fatal) for finding in across] == [
        ("train and val", Trouble.COPIES, True)
    ]
    shutil.copy(root / "train/sub/c.png", root / "val/other.png")
    shutil.copy(root / "train/sub/c.png", root / "train/b.png")
    assert [finding.count for finding in check_data(open_data("coco", {"root": str(root)})).across] == [1]
    (root / "val/other.png").write_bytes(b"something else")
    across = check_data(open_data("coco", {"root": str(root)})).across
    assert [(finding.what, finding.fatal) for finding in across] == [("pictures that stand in several files", False)]
    assert check_data(open_data("coco", {"root": str(root)}), files=False).across == ()


def test_the_page_shows_pictures_and_loads_nothing(write_coco: Write):
    evil = '<script>alert("x")</script>'
    categories = [{"id": 3, "name": evil}, {"id": 7, "name": "cat"}, {"id": 90, "name": "& bird"}]
    write_coco("val", categories=categories)
    source = open_data("coco", {"root": str(write_coco("train", categories=categories))})
    tables = {name: source.splits.read(name) for name in source.splits.existing}
    text = page(check_data(source), tables, "<b>mine</b>")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "<b>mine" not in text
    assert text.count("<image ") == 6
    assert text.count("<rect ") == 6
    assert "default-src &#x27;none&#x27;" in text
    places = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert places
    assert all(place.startswith("data:image/jpeg;base64,") for place in places)


def test_pictures_that_cannot_be_opened_leave_their_name(write_coco: Write):
    root = write_coco("val")
    (write_coco("train") / "train/a.png").unlink()
    source = open_data("coco", {"root": str(root)})
    tables = {name: source.splits.read(name) for name in source.splits.existing}
    assert "a.png: image file missing" in page(check_data(source), tables, "mine")


def test_every_class_is_shown_if_there_is_room(write_coco: Write):
    images = [(k, f"{k}.png", 9, 9) for k in range(1, 40)]
    boxes = [box(1, 1, 5, 5, image=k, category=90 if k == 37 else 3) for k in range(1, 40)]
    table = open_data("coco", {"root": str(write_coco("train", images, boxes))}).splits.read("train")
    assert len(chosen(table)) == SHOWN
    assert {0, 36} <= set(chosen(table))
    assert overlapping(table) == []
