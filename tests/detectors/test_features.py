"""A backbone alone as a teacher: maps and tokens, strides as the student sees them, its own pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdflow.errors import SpecError, UsageError
from kdflow.experiment.setup import prepare
from kdflow.graph.passes.infer import show
from kdflow.ports import DETECTORS, Detector
from kdflow.spec.resolve import parse_method
from tests.detectors.library import make_batch
from tests.detectors.staging import run_stages


def features(**options: Any) -> Detector:
    return DETECTORS.get("features").build(("a",), **{"pretrained": None, **options})


@pytest.mark.parametrize(
    ("model", "strides", "channels"),
    [
        ("timm:test_vit", (16,), (64,)),
        ("timm:test_convnext", (4, 8, 16, 32), (24, 32, 48, 64)),
        ("timm:test_resnet", (2, 4, 8, 16, 32), (32, 32, 48, 192, 96)),
    ],
)
def test_maps_have_the_declared_channels_and_strides(
    model: str, strides: tuple[int, ...], channels: tuple[int, ...]
) -> None:
    detector = features(model=model)
    detector.model.eval()
    assert (detector.ports["backbone"].strides, detector.ports["backbone"].channels) == (strides, channels)
    values = run_stages(detector, make_batch((1, 1), ((96, 64), (96, 96))))
    assert [tuple(m.shape[1:]) for m in values["backbone"]] == [
        (c, 96 // s, 96 // s) for c, s in zip(channels, strides)
    ]
    rows = values["backbone"][-1].flatten(2).transpose(1, 2)
    assert torch.equal(values["tokens"], rows)
    assert detector.licence == "apache-2.0"
    assert not detector.detects


def test_layers_of_a_vit_are_chosen_and_sizes_may_differ_from_the_students() -> None:
    detector = features(model="timm:test_vit", layers=(1, 4), size=48)
    detector.model.eval()
    values = run_stages(detector, make_batch((1, 1), ((96, 96), (96, 192))))
    assert values["normalize.pixels"].shape[-2:] == (48, 96)
    assert [tuple(m.shape[1:]) for m in values["backbone"]] == [(64, 3, 6)] * 2
    with torch.no_grad():
        whole = detector.model.model.forward_intermediates(
            values["normalize.pixels"], indices=[1, 4], norm=True, intermediates_only=True
        )
    assert all(torch.equal(own, other) for own, other in zip(values["backbone"], whole, strict=True))


def test_a_saved_model_of_the_transformers_library_keeps_its_patches_and_pixels(tmp_path: Path) -> None:
    from transformers import BitImageProcessor, Dinov2Backbone, Dinov2Config

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=56, patch_size=14
    )
    library = Dinov2Backbone(config).eval()
    library.save_pretrained(tmp_path)
    BitImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.5, 0.5]).save_pretrained(tmp_path)
    detector = features(model=f"transformers:{tmp_path}", layers=(0, 2))
    detector.model.eval()
    assert detector.ports["backbone"].strides == (14, 14)
    batch = make_batch((1, 1), ((64, 64), (64, 64)))
    values = run_stages(detector, batch)
    pixels = values["normalize.pixels"]
    assert pixels.shape[-1] % 14 == 0
    expected = torch.nn.functional.interpolate(batch.images, pixels.shape[-2:], mode="bilinear", antialias=True)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.5, 0.5]).view(3, 1, 1)
    torch.testing.assert_close(pixels, (expected - mean) / std)
    with torch.no_grad():
        maps = Dinov2Backbone.from_pretrained(tmp_path, out_indices=[1, 3]).eval()(pixels).feature_maps
    assert all(torch.equal(own, other) for own, other in zip(values["backbone"], maps, strict=True))


def test_weights_of_a_file_are_those_of_the_model(tmp_path: Path) -> None:
    donor = features(model="timm:test_vit").model
    torch.save({"state_dict": donor.model.state_dict()}, tmp_path / "vit.pth")
    found = features(model="timm:test_vit", pretrained=str(tmp_path / "vit.pth")).model
    assert all(torch.equal(own, other) for own, other in zip(found.parameters(), donor.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "vit"}, "write timm:NAME or transformers:FOLDER_OR_NAME"),
        ({"model": "timm:test_vitt"}, 'timm has no model "test_vitt"'),
        ({"model": "timm:test_vit", "layers": (9,)}, "has layers 0 to 5, not 9"),
        ({"model": "transformers:/nowhere"}, "cannot be had as a backbone"),
    ],
)
def test_what_cannot_be_had_is_refused_in_words(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        features(**options)
    assert message in str(raised.value)


BENCH = """
kdflow: 1
bench: vit
data: {format: shapes, size: 96, pixels: 96, fixed: true, workers: 0, images: {train: 4, val: 2, test: 2}}
student: {detector: retinanet, backbone: "timm:test_resnet", neck: 16}
teacher: {detector: features, model: "timm:test_vit", pretrained: null, size: 48}
recipe: {steps: 2, batch: 2}
"""
METHOD = """
kdflow: 1
method: hint
nodes:
  seen: {op: transform.resize, features: teacher.backbone.last, like: "student.neck[1]"}
  aligned: {op: adapter.conv, features: "student.neck[1]", like: seen}
terms:
  neck: {loss: loss.squared_error, student: aligned, teacher: seen, reduce: sum_of_means}
"""


def bench_file(folder: Path, text: str = BENCH) -> Path:
    (folder / "vit.yaml").write_text(text)
    return folder / "vit.yaml"


def test_a_bench_needs_neither_weights_nor_a_recipe_for_it(tmp_path: Path) -> None:
    setting = prepare(parse_method(METHOD, "hint.yaml"), bench_file(tmp_path))
    teacher = setting.plan.graph["teacher.backbone.last"]
    assert show(teacher.value.fake) == "(2, 64, 3, 3)"
    assert setting.detectors["teacher"].classes == ()
    assert "teacher:normalize" in setting.plan.graph


def test_strides_of_a_smaller_copy_are_measured_on_the_students_images(tmp_path: Path) -> None:
    text = METHOD.replace("teacher.backbone.last", '"teacher.backbone[0]"')
    graph = prepare(parse_method(text, "hint.yaml"), bench_file(tmp_path)).plan.graph
    assert graph["teacher.backbone"].value.strides == (32,)


def test_it_is_no_student(tmp_path: Path) -> None:
    text = BENCH.replace(
        'student: {detector: retinanet, backbone: "timm:test_resnet", neck: 16}',
        'student: {detector: features, model: "timm:test_vit", pretrained: null}',
    )
    with pytest.raises(SpecError, match="offers features only, so it can be a teacher alone"):
        prepare(parse_method("kdflow: 1\nmethod: plain\nteacher: none\n", "plain.yaml"), bench_file(tmp_path, text))
