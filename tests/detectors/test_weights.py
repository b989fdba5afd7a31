"""Weights into a detector: from files and by library name; what does not fit is said in one message."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights as Coco
from torchvision.ops import FrozenBatchNorm2d

from kdflow.detectors.backbones import BackboneSpec, build_backbone
from kdflow.detectors.weights import choose_classes, load_weights
from kdflow.errors import UsageError
from kdflow.ports import ClassRows
from tests.detectors.test_faster_rcnn import CLASSES, tiny


def pyramid(spec: BackboneSpec) -> tuple[Any, tuple[int, ...]]:
    made, channels = build_backbone(spec)
    return made.build(), channels


@pytest.mark.parametrize("form", ["plain", "wrapped", "safetensors"])
def test_a_file_is_loaded_strictly(form: str, tmp_path: Path) -> None:
    donor, detector = tiny(1), tiny(2)
    state = donor.model.state_dict()
    file = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(state, file)
    else:
        torch.save({"model": state} if form == "wrapped" else state, file)
    load_weights(detector, file)
    assert all(torch.equal(value, state[key]) for key, value in detector.model.state_dict().items())


def refusal(detector: Any, weights: Any) -> str:
    with pytest.raises(UsageError) as raised:
        load_weights(detector, weights)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    detector, file = tiny(), tmp_path / "w.pth"
    state = detector.model.state_dict()
    torch.save({k: v for k, v in state.items() if "fc6" not in k} | {"extra.weight": torch.zeros(1)}, file)
    message = refusal(detector, file)
    assert "2 parameters are missing (roi_heads.box_head.fc6.weight, roi_heads.box_head.fc6.bias)" in message
    assert "1 are unknown (extra.weight)" in message
    torch.save(tiny(neck=32).model.state_dict(), file)
    message = refusal(detector, file)
    assert "backbone.fpn.inner_blocks.0.0.weight is (32, 64, 1, 1) there and (16, 64, 1, 1) here" in message
    assert f"has 3 classes ({', '.join(CLASSES)})" in message


def test_an_exported_student_of_another_class_order_is_refused(tmp_path: Path) -> None:
    detector, file = tiny(), tmp_path / "student.pt"
    torch.save(detector.model.state_dict(), file)
    turned = CLASSES[::-1]
    (tmp_path / "student.py").write_text(f"import torch\n\nCLASSES = {turned!r}\n")
    message = refusal(detector, file)
    assert f"were trained for the classes {', '.join(turned)}, in this order" in message
    assert f"classes: [{', '.join(turned)}]" in message
    for text in (f"CLASSES = {CLASSES!r}", "CLASSES = names()", "CLASSES = (", ""):
        (tmp_path / "student.py").write_text(text)
        load_weights(detector, file)


def test_files_and_names_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no tensors")
    torch.save({"step": 3}, tmp_path / "other.pth")
    assert "cannot be read as a file of plain tensors" in refusal(tiny(), tmp_path / "text.pth")
    assert "this is no state dict" in refusal(tiny(), tmp_path / "other.pth")
    message = refusal(tiny(), "FasterRCNN_ResNet50_FPN_Weights.COCO_V9")
    assert "no such file, and no weight name of torchvision. Did you mean" in message
    assert "FasterRCNN_ResNet50_FPN_Weights.COCO_V1" in message


def coco_state(detector: Any) -> dict[str, torch.Tensor]:
    """What the library would give for this tiny model if it had been trained on the COCO categories."""
    state, count = dict(detector.model.state_dict()), len(Coco.COCO_V1.meta["categories"])
    predictor = "roi_heads.box_predictor."
    state[f"{predictor}cls_score.bias"] = torch.arange(count).float()
    state[f"{predictor}cls_score.weight"] = torch.randn(count, 24)
    state[f"{predictor}bbox_pred.bias"] = torch.arange(count * 4).float()
    state[f"{predictor}bbox_pred.weight"] = torch.randn(count * 4, 24)
    return state


def test_library_weights_are_chosen_by_class_name(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = tiny(norm="frozen")
    detector = replace(detector, classes=("dog", "person", "toothbrush"))
    state = coco_state(detector)
    monkeypatch.setattr(Coco, "get_state_dict", lambda *a, **k: state)
    load_weights(detector, "FasterRCNN_ResNet50_FPN_Weights.COCO_V1")
    predictor = detector.model.roi_heads.box_predictor
    assert predictor.cls_score.bias.tolist() == [0, 18, 1, 90]
    assert predictor.bbox_pred.bias.tolist() == [*range(4), *range(72, 76), *range(4, 8), *range(360, 364)]
    assert torch.equal(predictor.cls_score.weight[1], state["roi_heads.box_predictor.cls_score.weight"][18])


def test_the_first_coco_weights_bring_their_epsilon_into_model_and_source(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = tiny(norm="frozen")
    detector = replace(detector, classes=("dog", "cat", "person"))
    monkeypatch.setattr(Coco, "get_state_dict", lambda *a, **k: coco_state(detector))
    assert "eps" not in detector.source().text()
    load_weights(detector, "FasterRCNN_ResNet50_FPN_Weights.COCO_V1")
    norms = [m for m in detector.model.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert {m.eps for m in norms} == {0.0}
    space: dict[str, Any] = {}
    exec(detector.source().text(), space)
    assert {m.eps for m in space["build"]().modules() if isinstance(m, FrozenBatchNorm2d)} == {0.0}


@pytest.mark.parametrize("rows", ["coco91", "without the background", "as a list"])
def test_the_rows_of_a_file_are_chosen_by_the_names_of_its_classes(rows: str, tmp_path: Path) -> None:
    detector, file = replace(tiny(), classes=("dog", "person", "toothbrush")), tmp_path / "w.pth"
    torch.save({f"module.{key}": value for key, value in coco_state(detector).items()}, file)
    names = Coco.COCO_V1.meta["categories"]
    named = {"coco91": "coco91", "without the background": names[1:], "as a list": tuple(names)}[rows]
    load_weights(detector, file, named)
    bias = detector.model.state_dict()["roi_heads.box_predictor.cls_score.bias"].tolist()
    assert bias == [0, 18, 1, 90]


def test_a_file_with_other_rows_than_are_listed_is_refused(tmp_path: Path) -> None:
    detector, file = tiny(), tmp_path / "w.pth"
    torch.save(coco_state(detector), file)
    with pytest.raises(UsageError, match="rows for 91 classes there, weights_classes lists 81 with the background"):
        load_weights(detector, file, "coco80")
    with pytest.raises(UsageError, match="weights_classes is for a file of weights"):
        load_weights(detector, "FasterRCNN_ResNet50_FPN_Weights.COCO_V1", "coco91")


def test_classes_that_the_weights_do_not_know_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = tiny()
    monkeypatch.setattr(Coco, "get_state_dict", lambda *a, **k: coco_state(detector))
    message = refusal(detector, "FasterRCNN_ResNet50_FPN_Weights.COCO_V1")
    assert "know no class disc, square, star. They know: person, bicycle" in message
    assert "The data has: disc, square, star" in message


def test_rows_of_several_anchors_are_chosen_in_each_group() -> None:
    state = {"head.weight": torch.arange(6.0)[:, None], "head.bias": torch.arange(6.0)}
    chosen = choose_classes(state, {"head": ClassRows(groups=2)}, ("none", "ant", "bee"), ("bee",), "w")
    assert chosen["head.bias"].tolist() == [2, 5]
    assert chosen["head.weight"].shape == (2, 1)


def test_a_backbone_takes_weights_from_a_file(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(1)
    donor = torchvision.models.resnet18().state_dict()
    torch.save(donor, tmp_path / "r18.pth")
    built, channels = pyramid(BackboneSpec("resnet18", 16, "frozen", pretrained=str(tmp_path / "r18.pth")))
    assert channels == (64, 128, 256, 512)
    assert torch.equal(built.body.conv1.weight, donor["conv1.weight"])
    assert {n.split(".")[0] for n, p in built.body.named_parameters() if p.requires_grad} == {
        "layer2",
        "layer3",
        "layer4",
    }
    with pytest.raises(UsageError, match=r"is no resnet34: layer1\.2\.conv1\.weight is missing"):
        pyramid(BackboneSpec("resnet34", 16, pretrained=str(tmp_path / "r18.pth")))


def test_a_timm_backbone_takes_weights_from_a_file(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(1)
    donor = timm.create_model("mobilenetv3_small_050")
    torch.save(donor.state_dict(), tmp_path / "m.pth")
    built, _ = pyramid(
        BackboneSpec("timm:mobilenetv3_small_050", 16, pretrained=str(tmp_path / "m.pth"), trainable=5)
    )
    assert torch.equal(built.body.conv_stem.weight, donor.conv_stem.weight)
    with pytest.raises(UsageError, match="pretrained_backbone"):
        build_backbone(BackboneSpec("timm:resnet10t", 16, pretrained=str(tmp_path / "m.pth"), trainable=5))
