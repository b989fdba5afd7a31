"""Any module as a detector: its losses and detections by a convention, ports at its submodules, and no work behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdflow.errors import SpecError, UsageError
from kdflow.experiment.export import export_notes
from kdflow.experiment.setup import prepare
from kdflow.plugins import load_plugin
from kdflow.ports import DETECTORS, Batch, Detector
from kdflow.spec.resolve import parse_method
from tests.detectors.library import library_inputs, make_batch
from tests.detectors.staging import run_stages

OWN = """
import torch
from torch import nn


class Own(nn.Module):
    def __init__(self, classes, width=8, fail=""):
        super().__init__()
        self.body = nn.ModuleList([nn.Conv2d(3 if i == 0 else width, width, 3, 2, 1) for i in range(3)])
        self.tower = nn.Conv2d(width, width, 3, 1, 1)
        self.scores, self.sides = nn.Conv2d(width, 2 * len(classes), 1), nn.Conv2d(width, 4, 1)
        self.behind = nn.Linear(1, 1)
        self.calls = 0

    def forward(self, images, targets=None):
        self.calls += 1
        maps, levels = torch.stack(images), []
        for layer in self.body:
            maps = layer(maps)
            levels.append(self.tower(maps))
        logits, sides = self.scores(levels[-1]), self.sides(levels[-1])
        assert levels[-1].shape[-1] < 1000 and not getattr(self, "forbidden", False)
        self.behind(torch.zeros(1, 1))
        if targets is not None:
            count = sum(len(t["labels"]) for t in targets)
            return {"cls": logits.square().mean() * (1 + count), "box": sides.abs().mean()}
        box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
        return [{"boxes": box, "scores": x.sigmoid().mean()[None], "labels": torch.tensor([1])} for x in logits]


def make(classes, **options):
    return Own(classes, **options)


def nothing():
    return None
"""
PORTS: dict[str, Any] = {
    "neck": {"at": "tower", "strides": (2, 4, 8)},
    "head.logits": {"at": "scores", "strides": (8,), "form": "sigmoid"},
    "coarse": {"at": "body.2", "strides": (8,), "node": "cnn/backbone"},
}


@pytest.fixture(scope="module", autouse=True)
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("own") / "own_module.py"
    file.write_text(OWN)
    load_plugin(file)
    return file


def build(**options: Any) -> Detector:
    torch.manual_seed(0)
    given = {"build": "own_module:make", "family": "dense", "losses": ("cls", "box"), "ports": PORTS, **options}
    return DETECTORS.get("module").build(("ant", "bee"), **given)


def test_losses_are_the_modules_own_and_ports_are_what_its_submodules_give() -> None:
    detector, batch = build(), make_batch((2, 1), ((64, 96), (91, 64)), classes=2)
    model = detector.model.train()
    values = run_stages(detector, batch)
    expected = model(*library_inputs(Batch(batch.images, [(96, 96)] * 2, batch.boxes, batch.labels), 0))
    assert dict(detector.losses) == {"cls": "losses.cls", "box": "losses.box"}
    assert all(torch.equal(values[f"losses.{name}"], value) for name, value in expected.items())
    assert [tuple(m.shape) for m in values["neck"]] == [(2, 8, 48, 48), (2, 8, 24, 24), (2, 8, 12, 12)]
    assert detector.ports["neck"].node == "cnn/neck"
    assert detector.ports["coarse"].node == "cnn/backbone"
    assert values["head.logits"][0].shape == (2, 12 * 12 * 2, 2)
    first = model.scores(values["neck"][2])
    assert torch.equal(values["head.logits"][0][:, 1], first[:, 2:, 0, 0])


def test_one_loss_stands_for_all_where_none_is_named() -> None:
    detector, batch = build(losses="all"), make_batch((2, 1), ((96, 96), (96, 96)), classes=2)
    detector.model.train()
    values = run_stages(detector, batch)
    expected = detector.model(*library_inputs(batch, 0))
    torch.testing.assert_close(values["losses.loss"], expected["cls"] + expected["box"])


METHOD = """
kdflow: 1
method: hint
nodes:
  aligned: {op: adapter.conv, features: "student.neck[2]", like: "teacher.neck[2]"}
terms:
  neck: {loss: loss.squared_error, student: aligned, teacher: "teacher.neck[2]", reduce: mean}
  scores: {loss: loss.squared_error, student: student.head.logits, teacher: teacher.head.logits, reduce: sum_of_means}
"""
BENCH = """
kdflow: 1
bench: own
plugins: [own_module.py]
data: {format: shapes, size: 64, pixels: 64, fixed: true, workers: 0, classes: [circle, square],
  images: {train: 4, val: 2, test: 2}}
student: {OWN, options: {width: 4}}
teacher: {OWN, options: {width: 8}, classes: [square, circle], weights: teacher.pt}
recipe: {steps: 2, batch: 2}
""".replace(
    "OWN",
    'detector: module, build: "own_module:make", family: dense, losses: [cls, box], ports: {'
    "neck: {at: tower, strides: [2, 4, 8]}, head.logits: {at: scores, strides: [8], form: sigmoid}}",
)


def bench(own: Path, text: str = BENCH) -> Path:
    (own.parent / "own.yaml").write_text(text)
    return own.parent / "own.yaml"


def test_a_teacher_runs_to_the_last_tap_and_no_further(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    torch.save(build(options={"width": 8}).model.state_dict(), "teacher.pt")
    text = (
        METHOD.replace("  scores:", "  more:")
        .replace("student.head.logits", "aligned")
        .replace("teacher.head.logits", '"teacher.neck[2]"')
    )
    plan = prepare(parse_method(text, "hint.yaml"), bench(own)).plan
    teacher: Any = plan.teachers["teacher"]
    ran = []
    for name in ("tower", "scores", "behind"):
        teacher.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    plan(make_batch((1, 1), ((64, 64), (64, 64)), classes=2))
    assert ran == ["tower"] * 3
    assert not teacher.training


def test_scores_of_another_class_order_are_compared_by_name(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    torch.save(build(options={"width": 8}).model.state_dict(), "teacher.pt")
    plan = prepare(parse_method(METHOD, "hint.yaml"), bench(own)).plan
    found = plan.evaluate(
        make_batch((1, 1), ((64, 64), (64, 64)), classes=2), ["teacher.head.logits", "teacher.head.logits~classes"]
    )
    raw, ours = found.values()
    assert torch.equal(raw[0].flip(-1), ours[0])


def test_predictions_have_zero_based_labels_and_the_mode_comes_back() -> None:
    detector, batch = build(first_label=1), make_batch((1, 1), ((96, 96), (96, 96)), classes=2)
    detector.model.train()
    found = detector.predict(batch.images, batch.image_sizes)
    assert [one["labels"].tolist() for one in found] == [[0], [0]]
    assert detector.model.training
    (note,) = export_notes(detector)
    assert "built by own_module:make, which is code of your own" in note


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"build": "own_module"}, "names no function; write PLUGIN:FUNCTION"),
        ({"build": "own_module:mak"}, 'has no function "mak". Did you mean "make"'),
        ({"build": "no_such_package:make"}, 'no plugin and no package "no_such_package"'),
        ({"build": "own_module:nothing"}, "gives a NoneType, no torch.nn.Module"),
        ({"options": {"depth": 3}}, "cannot build the module: "),
        ({"ports": {"neck": {"at": "towr"}}}, 'port neck: the module has no submodule "towr". Did you mean "tower"'),
        ({"ports": {"neck": {"att": "tower"}}}, 'port neck has no option "att"'),
        ({"ports": {"mine": {"at": "tower", "node": "cnn/nek"}}}, 'no taxonomy node "cnn/nek"'),
        ({"ports": {"mine": {"at": "tower", "kind": "mapp"}}}, 'no kind "mapp"'),
        ({"family": "one-stage"}, 'option "family"'),
    ],
)
def test_what_does_not_exist_is_refused_in_words(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        build(**options)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("strides: [2, 4, 8]", "strides: [4, 8, 16]"),
            "strides [4, 8, 16] do not fit maps of (2, 4, 32, 32), (2, 4, 16, 16)",
        ),
        (
            ("at: tower, strides: [2, 4, 8]", "at: behind, strides: [2]"),
            'kind "pyramid" has the axes (b, c, y, x), seen are (1, 1)',
        ),
    ],
)
def test_ports_are_checked_against_a_pass(
    change: tuple[str, str], message: str, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own.parent)
    torch.save(build(options={"width": 8}).model.state_dict(), "teacher.pt")
    with pytest.raises(SpecError) as raised:
        prepare(parse_method(METHOD, "hint.yaml"), bench(own, BENCH.replace(*change)))
    assert message in str(raised.value)


def test_calls_and_unknown_losses_are_refused_in_words(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    text = (
        METHOD
        + "  called: {loss: loss.squared_error, student: theirs.logits, teacher: teacher.head.logits, reduce: sum_of_means}\n"
    )
    text = text.replace("nodes:\n", "nodes:\n  theirs: {call: teacher.head, features: student.neck}\n")
    with pytest.raises(SpecError, match='module has no call "head"'):
        prepare(parse_method(text, "hint.yaml"), bench(own))
    detector = build(losses=("cls", "giou"))
    detector.model.train()
    with pytest.raises(RuntimeError, match='the model returns no loss "giou"; it returns cls, box'):
        run_stages(detector, make_batch((1, 1), ((96, 96), (96, 96)), classes=2))


def test_a_model_of_a_package_is_named_by_its_import_path() -> None:
    """torchvision's own builder; its transform neither resizes nor pads what the bench has resized and padded."""
    ports = {
        "neck": {"at": "backbone.fpn", "strides": (8, 16, 32, 64, 128)},
        "head.logits": {
            "at": "head.classification_head.cls_logits",
            "strides": (8, 16, 32, 64, 128),
            "form": "sigmoid",
        },
    }
    options = {"weights": None, "weights_backbone": None, "num_classes": 2, "min_size": 200}
    torch.manual_seed(0)
    path = "torchvision.models.detection:retinanet_resnet50_fpn"
    detector = DETECTORS.get("module").build(
        ("ant", "bee"),
        build=path,
        family="dense",
        options=options,
        ports=ports,
        losses=("classification", "bbox_regression"),
    )
    batch = make_batch((2, 1), ((64, 96), (91, 64)), classes=2)
    staged: Detector = DETECTORS.get("retinanet").build(("ant", "bee"))
    staged.model.load_state_dict(detector.model.state_dict())
    for one in (detector, staged):
        one.model.train()
    ours, theirs = run_stages(detector, batch), run_stages(staged, batch)
    for name in ("losses.classification", "losses.bbox_regression"):
        assert torch.equal(ours[name], theirs[name]), name
    for name in ("neck", "head.logits"):
        assert all(torch.equal(a, b) for a, b in zip(ours[name], theirs[name], strict=True)), name
    assert type(detector.model.transform).__name__ == "GeneralizedRCNNTransform"


def test_a_transformer_follows_its_librarys_convention() -> None:
    options = {
        "backbone": "resnet18",
        "widths": (8, 16, 24, 32),
        "depths": (1, 1, 1, 1),
        "d_model": 32,
        "heads": 4,
        "ffn": 64,
        "queries": 10,
        "decoder_layers": 2,
        "encoder_layers": 1,
        "dropout": 0.0,
    }
    torch.manual_seed(0)
    library = DETECTORS.get("conditional-detr").build(("ant", "bee"), **options)
    source = {"made": library.model}
    import sys
    import types

    sys.modules["made_elsewhere"] = types.ModuleType("made_elsewhere")
    sys.modules["made_elsewhere"].make = lambda: source["made"]  # type: ignore[attr-defined]
    ports = {"decoder.logits": {"at": "class_labels_classifier", "form": "sigmoid", "length": 1, "kind": "layers"}}
    detector = DETECTORS.get("module").build(
        ("ant", "bee"),
        build="made_elsewhere:make",
        family="transformer",
        convention="transformers",
        normalize="imagenet",
        ports=ports,
    )
    batch = make_batch((2, 1), ((64, 96), (91, 64)), classes=2)
    detector.model.train()
    values = run_stages(detector, batch)
    assert torch.isfinite(values["losses.loss"])
    found, expected = (d.predict(batch.images, batch.image_sizes) for d in (detector, library))
    for one, other in zip(found, expected, strict=True):
        best, wanted = one["scores"].argmax(), other["scores"].argmax()
        torch.testing.assert_close(one["boxes"][best], other["boxes"][wanted], rtol=1e-4, atol=1e-3)
        assert one["labels"][best] == other["labels"][wanted]


def test_a_stage_of_one_piece_is_copied_with_its_detector() -> None:
    import copy

    detector = build()
    other = copy.deepcopy(detector)
    stage: Any = other.stages["model"].run
    assert stage.model is other.model
    assert isinstance(other.model, nn.Module)
    assert other.model is not detector.model
