from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from kdflow.data.annotations import Pixels, Trouble
from kdflow.data.check import check_data, require_ready
from kdflow.data.convert import convert
from kdflow.data.formats import DataSource, open_data
from kdflow.data.images import ImageFaultError, read_header, read_pixels
from kdflow.data.transforms import Geometry
from kdflow.errors import DataError
from tests.data.conftest import save_image

Write = Callable[..., Path]
APPLY = Pixels(exif="apply")


def turn(file: Path, orientation: int) -> None:
    """Write an EXIF orientation into an image file, pixels as they are."""
    with Image.open(file) as image:
        exif = image.getexif()
        exif[0x0112] = orientation
        image.copy().save(file, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_pixels_are_read_as_stored_or_as_shown(tmp_path: Path, orientation: int, suffix: str):
    file = tmp_path / f"a.{suffix}"
    save_image(file, 20, 30)
    turn(file, orientation)
    with Image.open(file) as image:
        stored, as_people_see_it = np.asarray(image), np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(np.asarray(read_pixels(file, Pixels())), stored)
    assert np.array_equal(np.asarray(read_pixels(file, APPLY)), as_people_see_it)
    assert read_header(file, Pixels()).orientation == orientation
    assert read_header(file, Pixels()).size == stored.shape[:2]
    assert read_header(file, APPLY).size == as_people_see_it.shape[:2]


def turned_set(write_coco: Write, size: tuple[int, int], orientation: int = 6, **options: object) -> DataSource:
    """A set whose only image has 20 rows of 30 pixels, annotated with ``size``."""
    boxes = [{"image_id": 1, "category_id": 3, "bbox": [2, 3, 10, 12], "iscrowd": 0}]
    for split in ("train", "val"):
        root = write_coco(split, images=[(1, f"{split}.jpg", *size)], boxes=boxes)
        save_image(root / split / f"{split}.jpg", 20, 30)
        turn(root / split / f"{split}.jpg", orientation)
    return open_data("coco", {"root": str(root), **options})


def test_orientations_are_counted_by_the_check_and_before_a_run(write_coco: Write):
    source = turned_set(write_coco, (20, 30))
    report = check_data(source)
    assert report.faults == ()
    assert "images with an EXIF orientation, read as stored, which is not what people see" in str(report)
    assert ": 1, for example train.jpg (6)" in str(report)
    told = [str(finding) for finding in require_ready(source, Geometry())]
    assert sum("EXIF orientation" in words for words in told) == 2
    turned_set(write_coco, (20, 30), orientation=1)
    assert "EXIF" not in str(check_data(source))


def test_boxes_on_the_picture_as_shown_need_exif_apply(write_coco: Write):
    source = turned_set(write_coco, (30, 20))
    words = r"train\.jpg is 30x20, annotated 20x30 \(EXIF orientation 6: with data\.exif: apply they agree\)"
    with pytest.raises(DataError, match=words):
        check_data(source).raise_faults()
    with pytest.raises(DataError, match=words):
        require_ready(source, Geometry())
    applied = open_data("coco", {"root": source.splits["train"].annotations.folders[1], "exif": "apply"})
    sample = applied.splits["train"].dataset[0]
    assert tuple(sample.image.shape) == (3, 30, 20)
    assert sample.boxes.tolist() == [[2, 3, 12, 15]]
    assert "read as shown (exif: apply)" in str(check_data(applied))
    assert applied.fingerprint != source.fingerprint


@pytest.mark.parametrize("to", ["coco", "voc"])
def test_converting_writes_what_was_read(write_coco: Write, tmp_path: Path, to: str):
    source = turned_set(write_coco, (30, 20), exif="apply")
    from kdflow.data.folders import open_folder

    written = open_folder(convert(source, tmp_path / "new", to))  # type: ignore[arg-type]
    before, after = source.splits["train"].dataset[0], written.splits["train"].dataset[0]
    assert torch.equal(before.image, after.image)
    assert torch.equal(before.boxes, after.boxes)
    assert "EXIF" not in str(check_data(written))


def test_the_size_of_a_voc_image_without_one_is_that_of_the_pixels_as_read(write_voc: Write):
    root = write_voc("mine", "train", {"a": [("dog", (3, 5, 12, 14), 0)]}) / "mine"
    turn(root / "JPEGImages/a.jpg", 6)
    xml = root / "Annotations/a.xml"
    xml.write_text(xml.read_text().replace("<width>30</width><height>20</height>", ""))
    options = {"root": str(root), "train": "train", "val": "train"}
    assert open_data("voc", options).splits["train"].annotations.sizes.tolist() == [[20, 30]]
    assert open_data("voc", {**options, "exif": "apply"}).splits["train"].annotations.sizes.tolist() == [[30, 20]]


def huge_png(path: Path, width: int, height: int) -> None:
    """A PNG whose header promises more pixels than it holds."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


@pytest.mark.parametrize("annotated", [(14000, 13000), (20, 30)])
def test_a_very_large_image_is_called_too_large_and_the_option_is_named(write_coco: Write, annotated: tuple[int, int]):
    write_coco("val", images=[(1, "v.png", 20, 30)], boxes=[])
    root = write_coco(
        "train", images=[(1, "a.png", 20, 30)], boxes=[{"image_id": 1, "category_id": 3, "bbox": [2, 2, 9, 9]}]
    )
    huge_png(root / "train/a.png", 13000, 14000)
    text = (root / "annotations/instances_train.json").read_text()
    height, width = annotated
    text = text.replace('"height": 20, "width": 30', f'"height": {height}, "width": {width}')
    (root / "annotations/instances_train.json").write_text(text)
    faults = "\n".join(map(str, check_data(open_data("coco", {"root": str(root)})).faults))
    assert (
        "image too large: 1, for example a.png (13000x14000 is 182000000 pixels, data.max_pixels is 178956970)"
        in faults
    )
    assert "or raise data.max_pixels" in faults
    assert "fetch" not in faults
    raised = check_data(open_data("coco", {"root": str(root), "max_pixels": 200_000_000}), files=False).faults
    assert not [fault for fault in raised if fault.what == Trouble.TOO_LARGE]


def test_an_image_that_pillow_would_warn_of_is_read(tmp_path: Path):
    huge_png(tmp_path / "a.png", 10_000, 10_000)
    assert read_header(tmp_path / "a.png", Pixels()).size == (10_000, 10_000)


def test_sixteen_bits_are_read_by_their_upper_eight(tmp_path: Path):
    values = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        pixels = np.asarray(read_pixels(tmp_path / name, Pixels()))
        assert np.array_equal(pixels, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_what_has_no_agreed_range_or_is_no_image_is_refused(tmp_path: Path):
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "f.tif")
    (tmp_path / "lfs.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    (tmp_path / "text.jpg").write_text("hello")
    os.mkfifo(tmp_path / "pipe.jpg")
    words = {
        "f.tif": "values of 32 bits",
        "lfs.jpg": "git lfs pull",
        "text.jpg": "no image of a known",
        "pipe.jpg": "regular",
    }
    for name, expected in words.items():
        with pytest.raises(ImageFaultError, match=expected):
            read_pixels(tmp_path / name, Pixels())
    with pytest.raises(ImageFaultError, match="image file missing"):
        read_pixels(tmp_path / "nowhere.jpg", Pixels())
