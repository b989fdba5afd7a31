"""The benches on real data, as far as they go without it: two images, random numbers in place of published weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from kdflow.errors import SpecError
from kdflow.experiment.build import fill_weights
from kdflow.experiment.reading import read_method
from kdflow.experiment.session import Session, open_session
from kdflow.experiment.setup import Setting, prepare
from kdflow.resources import specs_folder
from kdflow.spec.load import read
from kdflow.spec.resolve import bench_of
from tests.benches.folders import COCO_CLASSES, published, save_backbone, save_pretrained, write_coco, write_voc

REAL = {
    path.stem: path for path in sorted((specs_folder() / "benches").glob("*.yaml")) if path.stem[:4] in ("coco", "voc-")
}
SMALL = {"data.size": 96, "data.workers": 0, "recipe.batch": 2}
HUB = [name for name in REAL if "detr" in name or "deimv2" in name]
TORCHVISION = [name for name in REAL if name not in HUB and "yolox" not in name]
slow = pytest.mark.slow


@pytest.fixture
def session() -> Iterator[Session]:
    with open_session("cpu") as opened:
        yield opened


def bench_named(name: str) -> Any:
    return bench_of(read(REAL[name]))


def changes(name: str, folder: Path) -> dict[str, Any]:
    """Overrides that put local folders and files in place of what would be downloaded."""
    bench = bench_named(name)
    root = write_voc(folder / "data") if bench.data.format == "voc" else write_coco(folder / "data")
    found: dict[str, Any] = {**SMALL, "data.root": str(root), **({} if bench.data.fixed else {"data.max_size": 128})}
    for seed, (owner, spec) in enumerate({"student": bench.student, "teacher": bench.teacher}.items()):
        if spec.options.get("pretrained_backbone"):
            file = folder / f"{owner}.pth"
            found[f"{owner}.pretrained_backbone"] = save_backbone(spec.options["backbone"], file)
        if name in HUB:
            found[f"{owner}.weights"] = save_pretrained(spec.detector, folder / owner, seed)
    return found


def test_the_benches_cover_what_users_will_run() -> None:
    pairs = {}
    for name in REAL:
        bench = bench_named(name)
        assert bench.recipe.fast == name.startswith("coco-")
        pairs[name] = (
            bench.data.format,
            bench.student.detector,
            *(spec.weights or spec.options.get("backbone") or spec.options["variant"] for spec in (bench.teacher, bench.student)),
        )
    assert pairs == {
        "coco-deimv2": ("coco", "deimv2", "harshaljanjani/DEIMv2_HGNetv2_N_COCO_Transformers", "hgnetv2-pico"),
        "coco-detr": ("coco", "detr", "facebook/detr-resnet-101", "facebook/detr-resnet-50"),
        "coco-faster-rcnn": ("coco", "faster-rcnn", "FasterRCNN_ResNet50_FPN_Weights.COCO_V1", "resnet18"),
        "coco-faster-rcnn-mobile": (
            "coco",
            "faster-rcnn",
            "FasterRCNN_ResNet50_FPN_Weights.COCO_V1",
            "timm:mobilenetv3_large_100",
        ),
        "coco-fcos": ("coco", "fcos", "FCOS_ResNet50_FPN_Weights.COCO_V1", "resnet18"),
        "coco-retinanet": ("coco", "retinanet", "RetinaNet_ResNet50_FPN_Weights.COCO_V1", "resnet18"),
        "coco-rf-detr": ("coco", "rf-detr", "Roboflow/rf-detr-medium", "Roboflow/rf-detr-nano"),
        "coco-rt-detr": ("coco", "rt-detr", "PekingU/rtdetr_r101vd", "PekingU/rtdetr_r18vd"),
        "coco-yolox": ("coco", "yolox", "yolox_l", "s"),
        "voc-faster-rcnn": ("voc", "faster-rcnn", "resnet101", "resnet50"),
    }
    for name in TORCHVISION[:-1]:
        assert (
            str(torchvision.models.get_weight(bench_named(name).teacher.weights)) == bench_named(name).teacher.weights
        )


def one_step(setting: Setting, session: Session, boxes: Collection[int] = (3,)) -> None:
    """A batch from the folder through student, teacher and terms, and the student's AP on the other split."""
    feed = session.feed(setting)
    batch = next(iter(feed.training(0)))
    assert sum(map(len, batch.boxes)) in boxes
    setting.plan.train()
    outcome = setting.plan(batch)
    assert outcome.raw["kd/hint"] > 0
    assert torch.isfinite(outcome.total)
    outcome.total.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in setting.plan.student.parameters())
    metrics = feed.evaluate(setting.detectors["student"], "val")
    assert 0 <= metrics["AP"] <= 100


@pytest.mark.parametrize("name", HUB)
def test_hub_models_become_detectors_of_the_datas_classes(name: str, tmp_path: Path, session: Session) -> None:
    setting = prepare(read_method("fitnet"), REAL[name], overrides=changes(name, tmp_path))
    assert setting.classes == COCO_CLASSES
    for detector in setting.detectors.values():
        assert detector.classes == COCO_CLASSES
        assert detector.model.config.num_labels == 80
    one_step(setting, session)


MAKERS = {
    "coco-faster-rcnn": "fasterrcnn_resnet50_fpn",
    "coco-faster-rcnn-mobile": "fasterrcnn_resnet50_fpn",
    "coco-fcos": "fcos_resnet50_fpn",
    "coco-retinanet": "retinanet_resnet50_fpn",
}
"""Benches whose teacher is published -> what torchvision builds for its weights."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "coco-retinanet" else slow) for n in MAKERS])
def test_teachers_take_the_published_weights_or_a_file_and_teach(
    name: str, tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = prepare(read_method("fitnet"), REAL[name], overrides=changes(name, tmp_path))
    spec, teacher = setting.bench.teacher, setting.detectors["teacher"]
    assert spec is not None
    assert {d.classes for d in setting.detectors.values()} == {COCO_CLASSES}
    entry, state = torchvision.models.get_weight(str(spec.weights)), published(MAKERS[name])
    monkeypatch.setattr(type(entry), "get_state_dict", lambda *_, **__: state)
    fill_weights(spec, teacher)
    loaded = {key: value.clone() for key, value in teacher.model.state_dict().items()}
    assert set(loaded) == {key for key in state if "num_batches" not in key}
    rows = {key for key, value in loaded.items() if value.shape != state[key].shape}
    assert rows
    assert all(key.startswith(tuple(teacher.class_rows)) for key in rows)
    assert all(torch.equal(loaded[key], state[key]) for key in set(loaded) - rows)
    torch.save(loaded, tmp_path / "teacher.pth")
    for parameter in teacher.model.parameters():
        parameter.data.zero_()
    fill_weights(spec.model_copy(update={"weights": str(tmp_path / "teacher.pth")}), teacher)
    assert all(torch.equal(value, loaded[key]) for key, value in teacher.model.state_dict().items())
    one_step(setting, session)


def test_a_released_yolox_teaches(tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"student.divisor": 32, "teacher.divisor": 32}
    overrides = {**changes("coco-yolox", tmp_path), **small}
    setting = prepare(read_method("fitnet"), REAL["coco-yolox"], overrides=overrides)
    spec, teacher = setting.bench.teacher, setting.detectors["teacher"]
    assert spec is not None
    assert setting.classes == COCO_CLASSES
    state = {key: torch.full_like(value, 0.01) for key, value in teacher.model.state_dict().items()}
    files = {"yolox_l.pth": {"start_epoch": 300, "model": state}}
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **_: files[url.rpartition("/")[2]])
    fill_weights(spec, teacher)
    assert all(torch.equal(value, state[key]) for key, value in teacher.model.state_dict().items())
    one_step(setting, session, boxes=range(2, 5))


@slow
def test_the_voc_bench_trains_and_evaluates_on_two_images(tmp_path: Path, session: Session) -> None:
    setting = prepare(read_method("fitnet"), REAL["voc-faster-rcnn"], overrides=changes("voc-faster-rcnn", tmp_path))
    assert len(setting.classes) == 20
    assert {d.classes for d in setting.detectors.values()} == {setting.classes}
    assert session.feed(setting).steps_per_epoch == 2, "both years"
    one_step(setting, session, boxes=range(2, 5))  # two images of one box and two of two are drawn from


def test_a_student_whose_weights_lack_a_class_of_the_data_is_refused(tmp_path: Path) -> None:
    overrides = changes("coco-detr", tmp_path)
    voc = write_voc(tmp_path / "voc")
    data = {
        "data.format": "voc",
        "data.root": str(voc),
        "data.classes": ["person", "unicorn"],
        "data.train": "VOC2007/trainval",
        "data.val": "VOC2007/test",
    }
    with pytest.raises(SpecError, match=r"student.weights: these weights do not know .* The data has: person, unicorn"):
        prepare(read_method("baseline"), REAL["coco-detr"], overrides={**overrides, **data})
