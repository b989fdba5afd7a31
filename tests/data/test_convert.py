from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kdflow.data.annotations import Annotations
from kdflow.data.check import check_data
from kdflow.data.convert import convert
from kdflow.data.folders import open_folder
from kdflow.data.formats import DataSource
from kdflow.errors import DataError, UsageError


def rows(table: Annotations) -> list[tuple[str, str, list[float], bool]]:
    """Boxes as (image, class, xywh, ignored), whatever the order of classes."""
    return [
        (Path(table.names[owner]).stem.split("_")[-1], table.classes[label], xywh, ignored)
        for owner, label, xywh, ignored in zip(table.owners, table.labels, table.boxes.tolist(), table.ignored.tolist())
    ]


def test_coco_to_voc_and_back_keeps_images_classes_and_whole_pixel_boxes(coco: DataSource, tmp_path: Path):
    voc = open_folder(convert(coco, tmp_path / "voc", "voc"))
    back = open_folder(convert(tmp_path / "voc", tmp_path / "back", "coco"))
    assert (voc.format, back.format) == ("voc", "coco")
    assert coco.classes == voc.classes == back.classes
    for name in ("train", "val"):
        expected = [(i, c, np.rint(b).tolist(), g) for i, c, b, g in rows(coco.splits[name].annotations)]
        expected = [(i, c, [2.0, 3.0, 10.0, 21.0] if i == "b" else b, g) for i, c, b, g in expected]
        assert rows(voc.splits[name].annotations) == expected
        assert rows(back.splits[name].annotations) == expected
        for index in range(3):
            assert torch.equal(coco.splits[name].dataset[index].image, back.splits[name].dataset[index].image)
    assert check_data(tmp_path / "voc").faults == ()
    assert check_data(tmp_path / "back").faults == ()


def test_voc_to_coco_and_back_is_exact(write_voc: Callable[..., Path], tmp_path: Path):
    cat, dog = ("cat", (1, 1, 30, 20), 1), ("dog", (3, 5, 12, 14), 0)
    write_voc("VOC2007", "train", {"000001": [dog], "000002": []})
    write_voc("VOC2012", "train", {"000001": [cat, dog]})  # the same stem as in the other year
    root = write_voc("VOC2007", "val", {"000003": [dog, cat]})
    original = open_folder(root)
    coco = open_folder(convert(original, tmp_path / "coco", "coco"))
    back = open_folder(convert(coco, tmp_path / "back", "voc"))
    assert original.classes == coco.classes == back.classes
    for name in ("train", "val"):
        assert rows(original.splits[name].annotations) == rows(coco.splits[name].annotations)
        assert rows(original.splits[name].annotations) == rows(back.splits[name].annotations)
    crowds = [row["iscrowd"] for row in coco.splits["train"].coco["annotations"]]
    assert crowds == [0, 1, 0]


def test_half_pixels_never_leave_the_image_or_vanish(write_coco: Callable[..., Path], tmp_path: Path):
    thin = [
        {"image_id": 5, "category_id": 3, "bbox": xywh, "iscrowd": 0}
        for xywh in ([23.6, 39.7, 0.3, 0.3], [5.2, 5.2, 0.2, 9])
    ]
    root = write_coco("train", boxes=thin)
    table = open_folder(convert(root, tmp_path / "voc", "voc")).splits["train"].annotations
    assert (table.boxes[:, 2:] >= 1).all()
    assert (table.overhang() == 0).all()


def test_a_folder_with_files_is_not_overwritten(coco: DataSource, tmp_path: Path):
    with pytest.raises(UsageError, match="is not empty"):
        convert(coco, tmp_path / "coco", "voc")


SPACED = ("my image 1.jpg", " b 1.png", "c -1.jpg", "d.e f.PNG", "Ünï 0.jpg", "no ending", "e .jpeg")


@pytest.mark.parametrize("to", ["voc", "coco"])
def test_names_with_spaces_dots_and_accents_are_read_back(write_coco: Callable[..., Path], tmp_path: Path, to: str):
    images = [(k, name, 20, 30) for k, name in enumerate(SPACED[:5], start=1)]
    boxes = [{"image_id": k, "category_id": 3, "bbox": [k, 2, 9, 8], "iscrowd": 0} for k in range(1, 6)]
    root = write_coco("train", images=images, boxes=boxes)
    for k, name in enumerate(SPACED[5:], start=6):  # Pillow writes no file without a known ending
        (root / "train" / name).write_bytes((root / "train" / SPACED[0]).read_bytes())
        file = root / "annotations/instances_train.json"
        document = json.loads(file.read_text())
        document["images"].append({"id": k, "file_name": name, "height": 20, "width": 30})
        document["annotations"].append({"id": 200 + k, "image_id": k, "category_id": 3, "bbox": [k, 2, 9, 8]})
        file.write_text(json.dumps(document))
    source = open_folder(root)
    back = open_folder(convert(source, tmp_path / "new", to)).splits["train"]  # type: ignore[arg-type]
    before = source.splits["train"]
    assert [Path(name).name for name in back.annotations.names] == list(SPACED)
    assert back.annotations.boxes.tolist() == before.annotations.boxes.tolist()
    assert back.annotations.notes == ()
    assert all(torch.equal(before.dataset[k].image, back.dataset[k].image) for k in range(len(SPACED)))


@pytest.mark.parametrize("name", ["two\nlines", " cat", "cat\u2028", "bell\x07"])
def test_class_names_that_would_be_read_back_otherwise_are_refused(
    write_coco: Callable[..., Path], tmp_path: Path, name: str
):
    root = write_coco("train", categories=[{"id": 3, "name": name}, {"id": 7, "name": "x"}, {"id": 90, "name": "y"}])
    with pytest.raises(DataError, match="class names that a VOC folder cannot hold: "):
        convert(root, tmp_path / "voc", "voc")
    assert not (tmp_path / "voc").exists()
    assert name in open_folder(convert(root, tmp_path / "new", "coco")).classes


def test_label_order_survives_converting(write_coco: Callable[..., Path], tmp_path: Path):
    source = open_folder(write_coco("train"))
    voc = convert(source, tmp_path / "voc", "voc")
    coco = convert(voc, tmp_path / "new", "coco")
    assert source.classes == open_folder(voc).classes == open_folder(coco).classes == ("dog", "cat", "bird")
    categories = json.loads((coco / "annotations/instances_train.json").read_text())["categories"]
    assert [(row["id"], row["name"]) for row in categories] == [(1, "dog"), (2, "cat"), (3, "bird")]


@pytest.mark.parametrize("to", ["voc", "coco"])
def test_only_images_are_copied(write_coco: Callable[..., Path], tmp_path: Path, to: str):
    root = write_coco("train")
    (root / "train/a.png").write_text("a secret")
    with pytest.raises(
        DataError, match=r"image file cannot be opened: 1, for example a\.png \(no image of a known format"
    ):
        convert(root, tmp_path / "new", to)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()
