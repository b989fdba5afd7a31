"""Whatever bytes a file holds, reading it gives a result or a KdflowError."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from kdflow.data.annotations import Pixels
from kdflow.data.check import check_data, require_ready
from kdflow.data.folders import open_folder
from kdflow.data.formats import open_data
from kdflow.data.images import ImageFaultError, read_header, read_pixels
from kdflow.data.transforms import Geometry
from kdflow.errors import KdflowError
from tests.data.conftest import save_image

few = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NUMBERS = (0, 1, 5, -1, 1.0, 0.5, 2**63, 10**400, 1e308, float("nan"), float("inf"))
numbers = st.sampled_from([*NUMBERS, "1", "x", None, True, [], {}])
values = st.recursive(
    numbers | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def look_at(folder: Path, **options: Any) -> None:
    """All that commands do with a folder; str() of the report is what a user sees."""
    with suppress(KdflowError):
        str(check_data(folder)).encode()
    with suppress(KdflowError):
        source = open_data(options.pop("format"), {"root": str(folder), **options})
        source.fingerprint  # noqa: B018
        require_ready(source, Geometry())


@pytest.fixture
def coco_folder(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        save_image(tmp_path / split / "a.png", 20, 30)
        (tmp_path / f"{split}.json").write_text(json.dumps(document()))
    return tmp_path


def document() -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 9, 8], "area": 72, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cat"}],
    }


@few
@given(content=st.binary(max_size=200))
@example(content=b"[" * 100_000)
@example(content=b'{"images": ' + b"9" * 5000 + b"}")
@example(content=b"\xff\xfe{")
def test_any_bytes_as_a_coco_file(coco_folder: Path, content: bytes):
    (coco_folder / "train.json").write_bytes(content)
    look_at(coco_folder, format="coco")


@few
@given(data=st.data())
@pytest.mark.parametrize("bad_boxes", ["stop", "repair"])
def test_any_values_in_a_coco_file(coco_folder: Path, bad_boxes: str, data: st.DataObject):
    changed = document()
    for _ in range(data.draw(st.integers(1, 3))):
        rows = changed[data.draw(st.sampled_from(sorted(changed)))]
        row = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
        row[data.draw(st.sampled_from([*sorted(row), "segmentation"]))] = data.draw(values)
    if data.draw(st.booleans()):
        changed[data.draw(st.sampled_from(sorted(changed)))] = data.draw(values)
    (coco_folder / "train.json").write_text(json.dumps(changed))
    look_at(coco_folder, format="coco", bad_boxes=bad_boxes)


@few
@given(
    segmentation=values | st.fixed_dictionaries({"size": st.lists(numbers, max_size=3), "counts": values | st.text()})
)
def test_any_segmentation_without_a_box(coco_folder: Path, segmentation: Any):
    changed = document()
    del changed["annotations"][0]["bbox"]
    changed["annotations"][0]["segmentation"] = segmentation
    (coco_folder / "train.json").write_text(json.dumps(changed))
    look_at(coco_folder, format="coco")


@pytest.fixture
def voc_folder(tmp_path: Path) -> Path:
    for part in ("Annotations", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    for stem, split in {"a": "train", "b": "val"}.items():
        save_image(tmp_path / "JPEGImages" / f"{stem}.jpg", 20, 30)
        (tmp_path / "Annotations" / f"{stem}.xml").write_text(annotation({}))
        (tmp_path / "ImageSets/Main" / f"{split}.txt").write_text(f"{stem}\n")
    return tmp_path


def annotation(texts: dict[str, str]) -> str:
    found = {"width": "30", "height": "20", "name": "cat", "xmin": "1", "ymin": "1", "xmax": "9", "ymax": "9", **texts}
    found = {key: text.replace("&", "&amp;").replace("<", "&lt;") for key, text in found.items()}
    tags = {key: f"<{key}>{text}</{key}>" for key, text in found.items()}
    box = "".join(tags[key] for key in ("xmin", "ymin", "xmax", "ymax"))
    rest = "".join(tags.get(key, "") for key in ("difficult",))
    size = f"<size>{tags['width']}{tags['height']}</size>"
    return (
        f"<annotation>{tags.get('filename', '')}{size}"
        f"<object>{tags['name']}{rest}<bndbox>{box}</bndbox></object></annotation>"
    )


@few
@given(content=st.binary(max_size=200))
@example(content=b'<?xml version="1.0" encoding="cp037"?>x')
@example(content=b'<?xml version="1.0" encoding="utf-32"?><annotation/>')
@example(content=b"<annotation>" * 20_000)
@example(content=annotation({"xmin": "9" * 5000}).encode())
def test_any_bytes_as_an_annotation(voc_folder: Path, content: bytes):
    (voc_folder / "Annotations/a.xml").write_bytes(content)
    look_at(voc_folder, format="voc", train="train", val="val")


TEXTS = st.text(max_size=12) | st.sampled_from(["9" * 5000, "1e999", "nan", "-1", "../../x", "..", "a\0", "\ud800"])
KEYS = ("width", "height", "name", "xmin", "ymax", "difficult", "filename")


@few
@given(texts=st.dictionaries(st.sampled_from(KEYS), TEXTS, max_size=3))
def test_any_values_in_an_annotation(voc_folder: Path, texts: dict[str, str]):
    (voc_folder / "Annotations/a.xml").write_bytes(annotation(texts).encode("utf-8", "surrogatepass"))
    look_at(voc_folder, format="voc", train="train", val="val", classes=["cat"])


@few
@given(content=st.binary(max_size=60) | st.text(max_size=30).map(str.encode))
@example(content="cat\n".encode("utf-16"))
@example(content=b"cat\0\n")
@pytest.mark.parametrize("name", ["classes.txt", "ImageSets/Main/train.txt"])
def test_any_bytes_as_a_list(voc_folder: Path, name: str, content: bytes):
    (voc_folder / name).write_bytes(content)
    look_at(voc_folder, format="voc", train="train", val="val")


@pytest.fixture
def yolo_folder(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        save_image(tmp_path / "images" / split / f"{split}.jpg", 20, 30)
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / f"{split}.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "data.yaml").write_text(YOLO)
    return tmp_path


YOLO = "train: images/train\nval: images/val\nnames: [cat]\n"


@few
@given(content=st.binary(max_size=80) | st.text(max_size=40).map(lambda text: (YOLO + text).encode()))
@example(content=b"names: &a [*a, *a]")
@example(content=(YOLO + "nc: " + "9" * 5000).encode())
@example(content=b"[" * 50_000)
@example(content=b"? [a]\n: b")
@example(content=(YOLO + "path: !!binary aaa").encode())
def test_any_bytes_as_a_yaml_file(yolo_folder: Path, content: bytes):
    (yolo_folder / "data.yaml").write_bytes(content)
    look_at(yolo_folder, format="yolo")


@few
@given(key=st.sampled_from(["train", "val", "path", "names", "nc"]), value=values)
def test_any_values_in_a_yaml_file(yolo_folder: Path, key: str, value: Any):
    content = {"train": "images/train", "val": "images/val", "names": ["cat"], key: value}
    (yolo_folder / "data.yaml").write_text(json.dumps(content))
    look_at(yolo_folder, format="yolo")


words = st.text(max_size=5) | st.sampled_from(["0", ".5", "1e400", "nan", "-1", "9" * 5000])


@few
@given(content=st.binary(max_size=60) | st.lists(words, max_size=9).map(lambda found: " ".join(found).encode()))
def test_any_bytes_as_labels(yolo_folder: Path, content: bytes):
    (yolo_folder / "labels/train/train.txt").write_bytes(content)
    look_at(yolo_folder, format="yolo")


@pytest.fixture
def hugging_face_folder(tmp_path: Path) -> Path:
    for split in ("train", "validation"):
        save_image(tmp_path / split / "a.png", 20, 30)
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps(row()))
    return tmp_path


def row() -> dict[str, Any]:
    return {"file_name": "a.png", "objects": {"bbox": [[1, 2, 9, 8]], "category": ["cat"], "area": [72], "iscrowd": [0]}}


@few
@given(content=st.binary(max_size=200))
@example(content=b"[" * 100_000)
@example(content=b'{"file_name": ' + b"9" * 5000 + b"}")
@example(content=b"{}\n\n[]\n1")
def test_any_bytes_as_metadata(hugging_face_folder: Path, content: bytes):
    (hugging_face_folder / "train/metadata.jsonl").write_bytes(content)
    look_at(hugging_face_folder, format="huggingface")


@few
@given(
    key=st.sampled_from(["file_name", "width", "objects"]), inner=st.sampled_from(["bbox", "category", "area", ""]), value=values
)
@pytest.mark.parametrize("boxes", ["xywh", "xyxy"])
def test_any_values_as_metadata(hugging_face_folder: Path, boxes: str, key: str, inner: str, value: Any):
    changed = row()
    if key == "objects" and inner:
        changed["objects"][inner] = value
    else:
        changed[key] = value
    (hugging_face_folder / "train/metadata.jsonl").write_text(json.dumps(changed))
    look_at(hugging_face_folder, format="huggingface", boxes=boxes, classes=["cat"])
    look_at(hugging_face_folder, format="huggingface")


@few
@given(content=st.binary(max_size=60) | values.map(lambda value: f"---\n{json.dumps({'a': value})}\n---\n".encode()))
@example(content=b"---\na: &a [*a, *a]\n---\n")
@example(content=b"---\nclass_label: {names: {0: a, 2: b}}\n---\n")
def test_any_bytes_as_a_card(hugging_face_folder: Path, content: bytes):
    (hugging_face_folder / "README.md").write_bytes(content)
    look_at(hugging_face_folder, format="huggingface")


def encoded(form: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    stream, image = io.BytesIO(), Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(stream, form, **({"exif": exif} if form in ("JPEG", "PNG", "WEBP") else {}))
    return stream.getvalue()


FORMS = {form: encoded(form) for form in ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")}


@few
@given(data=st.data())
@pytest.mark.parametrize("form", [*FORMS, ""])
@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_any_bytes_as_an_image(tmp_path: Path, form: str, exif: Any, data: st.DataObject):
    content = bytearray(FORMS.get(form, b"") or data.draw(st.binary(max_size=200)))
    for _ in range(data.draw(st.integers(0, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / "a.jpg"
    file.write_bytes(
        bytes(content[: data.draw(st.integers(0, len(content)))]) if data.draw(st.booleans()) else bytes(content)
    )
    for decode in (False, True):
        with suppress(ImageFaultError):
            read_header(file, Pixels(exif), decode)
    with suppress(ImageFaultError):
        assert read_pixels(file, Pixels(exif)).mode == "RGB"


@few
@given(content=st.binary(max_size=300))
def test_any_bytes_as_a_picture_of_a_set(coco_folder: Path, content: bytes):
    (coco_folder / "train/a.png").write_bytes(content)
    look_at(coco_folder, format="coco")
    with suppress(KdflowError):
        open_folder(coco_folder).splits["train"].dataset[0]
