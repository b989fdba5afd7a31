"""A bench written for a folder of pictures."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdflow.data.convert import convert
from kdflow.data.formats import open_data, parse_options
from kdflow.data.shapes import ShapesOptions, write_shapes
from kdflow.errors import DataError, UsageError
from kdflow.experiment.draft import draft_bench, epochs_for
from kdflow.experiment.run import run
from kdflow.experiment.setup import check_bench
from kdflow.spec.bench import Bench
from kdflow.spec.resolve import load_bench

TINY = "retinanet/timm:test_resnet"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder of 24 drawn scenes with three splits."""
    root = tmp_path_factory.mktemp("drawn") / "coco"
    options = parse_options("shapes", {"pixels": 96, "images": {"train": 16, "val": 4, "test": 4}})
    assert isinstance(options, ShapesOptions)
    write_shapes(root, options)
    return root


def written(folder: Path, data: Path, student: str = TINY, **more: Any) -> tuple[Path, Bench]:
    file = folder / "mine.yaml"
    file.write_text(draft_bench("mine", data, folder, student, **more).text)
    return file, load_bench(file)


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_a_bench_is_checked_and_runs(drawn: Path, tmp_path: Path, format: str):
    file, bench = written(tmp_path, convert(drawn, tmp_path / "data" / format, format))
    assert yaml.safe_load(file.read_text())["data"]["root"] == f"data/{format}"
    assert bench.data.format == format
    checked, detectors = check_bench(file)
    assert detectors["student"].classes == open_data(format, bench.data.options).classes
    assert checked.data.size == 256
    assert [step.name for step in checked.data.augment] == ["scale", "colour", "flip"]
    short = {
        "recipe.epochs": None,
        "recipe.steps": 2,
        "recipe.schedule.warmup": 1,
        "data.size": 64,
        "data.max_size": 64,
    }
    result = run("baseline", bench=file, overrides=short, output=tmp_path / "runs", notify=lambda _: None)
    assert result.status == "finished"


@pytest.mark.parametrize(
    "student", ["faster-rcnn/timm:test_resnet", "fcos", "atss", "ssd/resnet18", "yolox/nano", "rt-detr/resnet18"]
)
def test_every_family_gets_a_bench_that_passes_the_check(drawn: Path, tmp_path: Path, student: str):
    file, bench = written(tmp_path, drawn, student)
    check_bench(file)
    assert bench.student.detector == student.partition("/")[0]
    assert bench.data.fixed == (bench.student.detector in ("ssd", "rt-detr"))


def test_missing_splits_are_held_out_of_the_training_images(drawn: Path, tmp_path: Path):
    root = convert(drawn, tmp_path / "voc", "voc")
    shutil.rmtree(root / "ImageSets")
    _, bench = written(tmp_path, root)
    assert bench.data.options["train"] == ["*"]
    assert bench.data.options["hold_out"] == {"val": 0.15, "test": 0.15}
    splits = open_data("voc", bench.data.options).splits
    assert {name: len(splits[name]) for name in splits.existing} == {"train": 16, "val": 4, "test": 4}


def test_a_test_split_is_not_asked_for_where_there_is_validation(drawn: Path, tmp_path: Path):
    root = shutil.copytree(drawn, tmp_path / "coco")
    (root / "annotations/instances_test.json").unlink()
    assert "hold_out" not in written(tmp_path, root)[1].data.options


def test_wrong_boxes_are_repaired_and_other_faults_refused(drawn: Path, tmp_path: Path):
    root = shutil.copytree(drawn, tmp_path / "coco")
    file = root / "annotations/instances_train.json"
    content = yaml.safe_load(file.read_text())
    content["annotations"][0]["bbox"][2] = 0
    file.write_text(str(content).replace("'", '"'))
    path, bench = written(tmp_path, root)
    assert bench.data.options["bad_boxes"] == "repair"
    assert "1 x empty box" in path.read_text()
    content["annotations"][1]["category_id"] = 99
    file.write_text(str(content).replace("'", '"'))
    with pytest.raises(DataError, match="unknown class: 1"):
        draft_bench("mine", root, tmp_path, TINY)


def test_small_objects_ask_for_a_larger_input(tmp_path: Path):
    sizes = []
    for name, side in {"large": 0.5, "small": 0.1}.items():
        options = parse_options(
            "shapes",
            {
                "pixels": 512,
                "images": {"train": 4, "val": 1, "test": 1},
                "object_size": [side, side + 0.05],
                "clutter": 0,
            },
        )
        assert isinstance(options, ShapesOptions)
        write_shapes(tmp_path / name, options)
        sizes.append(written(tmp_path, tmp_path / name)[1].data.size)
    assert sizes[0] == 256
    assert sizes[1] > 320
    assert written(tmp_path, tmp_path / "small", size=96)[1].data.size == 96


def test_few_images_are_seen_more_often_and_changed_more():
    assert [epochs_for(n, "dense") for n in (10, 205, 1000, 118_000)] == [120, 84, 38, 12]
    assert epochs_for(205, "transformer") == 168


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        ("retinanett", None, 'no detector "retinanett". Did you mean "retinanet"'),
        ("features/timm:test_vit", None, "can be a teacher alone"),
        (TINY, "module", "needs options that only its owner knows"),
        (TINY, "rf-detr/x", "neither backbone"),
    ],
)
def test_detectors_that_cannot_be_written_are_refused(
    drawn: Path, tmp_path: Path, student: str, teacher: str | None, words: str
):
    with pytest.raises(UsageError) as caught:
        draft_bench("mine", drawn, tmp_path, student, teacher)
    assert words in str(caught.value)


def test_a_backbone_alone_may_teach(drawn: Path, tmp_path: Path):
    _, bench = written(tmp_path, drawn, teacher="features/timm:test_vit")
    assert bench.teacher is not None
    assert (bench.teacher.recipe, bench.teacher.options["model"]) == (None, "timm:test_vit")
