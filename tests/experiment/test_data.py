"""What is wrong with data stops a run before teacher or student are trained; what is worth knowing is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from kdflow.data.convert import convert
from kdflow.errors import DataError
from kdflow.experiment.run import RunResult
from tests.data.conftest import write_coco  # noqa: F401  (a fixture)
from tests.paths import BENCH

Tiny = Callable[..., RunResult]
Write = Callable[..., Path]
DOG = {"category_id": 3, "bbox": [4, 5, 30, 20], "iscrowd": 0}


@pytest.fixture
def bench(write_coco: Write, tmp_path: Path) -> Callable[..., Path]:  # noqa: F811
    """``bench(val=[])`` is the tiny bench on a COCO folder of two images per split, with these boxes in a split."""

    def write(**boxes: list[dict[str, Any]]) -> Path:
        for split in ("train", "val", "test"):
            images = [(k, f"{split}{k}.png", 48, 64) for k in (1, 2)]
            root = write_coco(split, images, boxes.get(split, [{**DOG, "image_id": k} for k in (1, 2)]))
        content = yaml.safe_load(BENCH.read_text())
        content["data"] = {"format": "coco", "root": str(root), "size": 64, "fixed": True, "workers": 0}
        (tmp_path / "bench.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "bench.yaml"

    return write


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_without_objects_stops_before_anything_is_trained(
    tiny: Tiny, bench: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    for place in ("run", "teacher"):
        monkeypatch.setattr(f"kdflow.experiment.{place}.fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(DataError, match=rf"instances_{split}\.json  no objects to measure on: 1"):
        tiny("fitnet", bench=bench(**{split: []}))


def test_faults_of_the_test_split_are_found_before_the_training(
    tiny: Tiny, bench: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdflow.experiment.run.fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(DataError, match=r"instances_test\.json  unknown class: 1"):
        tiny("baseline", bench=bench(test=[{**DOG, "image_id": 1, "category_id": 8}]))


def test_a_bench_may_name_a_yolo_folder(tiny: Tiny, bench: Callable[..., Path], tmp_path: Path) -> None:
    content = yaml.safe_load(bench().read_text())
    convert(tmp_path / "coco", tmp_path / "yolo", "yolo")
    content["data"] |= {"format": "yolo", "root": str(tmp_path / "yolo")}
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump(content))
    assert tiny("baseline", bench=tmp_path / "bench.yaml", steps=1).status == "finished"


def test_what_is_worth_knowing_is_told_once(tiny: Tiny, bench: Callable[..., Path], tmp_path: Path) -> None:
    file = bench(train=[{**DOG, "image_id": 1}, {**DOG, "image_id": 2, "bbox": [1, 1, 0.2, 9]}])
    image = tmp_path / "coco/train/train1.png"
    with Image.open(image) as opened:
        exif = opened.getexif()
        exif[0x0112] = 3
        opened.copy().save(image, exif=exif)
    told: list[str] = []
    assert tiny("baseline", bench=file, notify=told.append, steps=1).status == "finished"
    data = [line for line in told if line.startswith("data: ")]
    assert ["EXIF orientation" in line for line in data] == [True, False]
    assert "boxes below one pixel at 64x64 (left out in training): 1" in data[1]
