"""YOLOX against the original's numbers: every expected array of every case is compared, and every key of the released weights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdflow.detectors import yolox_stages as stages
from kdflow.detectors.dense_stages import AssignedLabels, HeadPredict, Tail
from kdflow.detectors.yolox import VARIANTS
from kdflow.detectors.yolox_model import PAFPN, YOLOX, Head, cell_boxes, corners_of, decode
from kdflow.functional.simota import SimotaRule, simota

FOLDER = Path(os.environ.get("KDFLOW_GOLDENS", Path(__file__).parent)) / "detector-yolox"
CASES = sorted(FOLDER.glob("case*.npz"))
MAPS = ("dark3", "dark4", "dark5")


def test_there_are_cases() -> None:
    assert CASES


class Case:
    """The detector's own stages on the arrays of one case: a head on given maps, or a whole model on given images."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        self.arrays = dict(np.load(path))
        self.dtype = dtype
        self.used: set[str] = set()
        self.whole = "images" in self.arrays
        self.model = self.make_model()
        self.inputs = [self["images"]] if self.whole else [m.requires_grad_() for m in self.all("neck")]
        self.boxes, self.labels = self.all("gt_boxes"), self.all("gt_labels")
        self.check_targets()

    def __getitem__(self, key: str) -> Any:
        self.used.add(key)
        value = torch.as_tensor(self.arrays[key])
        return value.to(self.dtype) if value.is_floating_point() or key == "images" else value

    def all(self, prefix: str) -> list[Any]:
        count = sum(key.startswith(f"{prefix}.") for key in self.arrays)
        return [self[f"{prefix}.{i}"].clone() for i in range(count)]

    def hp(self, name: str) -> Any:
        self.used.add(f"hp.{name}")
        return self.arrays[f"hp.{name}"].item()

    def make_model(self) -> Any:
        depth, width, depthwise = self.hp("depth"), self.hp("width"), bool(self.hp("depthwise"))
        head = Head(self.hp("num_classes"), width, depthwise)
        assert head.strides == tuple(self["strides"].tolist())
        neck = PAFPN(depth, width, depthwise) if self.whole else nn.Identity()
        limits = {"score_thresh": self.hp("conf"), "nms_thresh": self.hp("nms"), "detections_per_img": 10**6}
        model = YOLOX(neck, head, min_size=64, max_size=64, **limits).to(self.dtype)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(m.eps, m.momentum) for m in norms} == {(self.hp("bn_eps"), self.hp("bn_momentum"))}
        state = self.whole_state(model) if self.whole else {k[6:]: self[k] for k in self.arrays if k.startswith("param.")}
        model.load_state_dict(state, strict=True)
        return model

    def whole_state(self, model: Any) -> dict[str, Tensor]:
        """The model's floating-point entries in their order, read from one flat array."""
        names = [key for key, value in model.state_dict().items() if value.is_floating_point()]
        assert [str(name) for name in self.arrays["params.names"]] == names
        self.used.add("params.names")
        shapes = [tuple(int(side) for side in row if side) for row in self["params.shapes"]]
        parts = self["params.flat"].split([int(np.prod(shape)) for shape in shapes])
        state = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes)}
        return {**{key: value for key, value in model.state_dict().items() if key not in state}, **state}

    def check_targets(self) -> None:
        """Both forms of the objects say the same."""
        for rows, boxes, labels in zip(self["targets"], self.boxes, self.labels):
            rows = rows[rows.sum(1) > 0]
            assert torch.equal(rows[:, 0].long(), labels)
            assert torch.equal(corners_of(rows[:, 1:]), boxes)

    def forward(self) -> dict[str, Any]:
        """Maps, stems, towers and predictions by the stages."""
        found: dict[str, Any] = {}
        maps = self.inputs
        if self.whole:
            found["backbone"] = self.model.backbone.backbone(self.inputs[0])
            found["neck"] = maps = stages.Fuse(self.model.backbone)(found["backbone"])["maps"]
        head = self.model.head
        assert tuple(self["image_size"].tolist()) == tuple(side * 8 for side in maps[0].shape[-2:])
        found["maps"], found["stems"] = maps, stages.Stems(head)(maps)["stems"]
        towers = stages.towers_of(head)
        found |= towers(found["stems"])
        tail = Tail(towers, HeadPredict(head), ("logits", "objectness", "deltas"))
        found |= tail(found["cls"], found["box"])
        found["cells"] = [c.to(self.dtype) for c in cell_boxes(maps, head.strides)]
        return found

    @property
    def rule(self) -> SimotaRule:
        return SimotaRule("center", self.hp("center_radius"), self.hp("candidates"), self.hp("iou_cost"))

    def assigned(self, values: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """The stage's result, and what it is made from."""
        decoded = [stages.decoded(d, c) for d, c in zip(values["deltas"], values["cells"])]
        predictions = values["logits"], values["objectness"], decoded
        stage = stages.SimotaAssign(self.rule)(values["cells"], self.boxes, self.labels, *predictions)
        inner = simota(
            torch.cat(values["cells"]),
            stages.centered(stages.stacked(self.boxes)),
            stages.stacked(self.labels),
            stages.stacked([torch.ones_like(own, dtype=torch.bool) for own in self.labels]),
            decode(torch.cat(values["deltas"], 1), torch.cat(values["cells"])),
            torch.cat(values["logits"], 1),
            torch.cat(values["objectness"], 1),
            self.rule,
        )
        assert torch.equal(torch.cat(stage["indices"], 1), inner.indices)
        return stage, inner

    def losses(self, values: dict[str, Any], indices: list[Tensor]) -> dict[str, Tensor]:
        weights = {"loss_cls": 1.0, "loss_bbox": self.hp("w_iou"), "loss_obj": 1.0}
        weights |= {"loss_l1": 1.0} if self.hp("use_l1") else {}
        outputs = {name: values[name] for name in ("logits", "objectness", "deltas")}
        found = stages.YoloxLoss(weights)(values["cells"], indices, self.boxes, self.labels, **outputs)
        total = torch.stack(list(found.values())).sum()
        named = {"loss_iou": found["loss_bbox"], "loss_obj": found["loss_obj"], "loss_cls": found["loss_cls"]}
        return {**named, "loss_l1": found.get("loss_l1", total.new_zeros(())), "loss_total": total}

    def found(self) -> dict[str, Any]:
        """What each expected array should be."""
        self.model.train(bool(self.hp("bn_training")))
        before = {key: value.clone() for key, value in self.model.state_dict().items()}
        values = self.forward()
        stage, inner = self.assigned(values)
        losses = self.losses(values, stage["indices"])
        losses["loss_total"].backward()
        found: dict[str, Any] = {**losses, **self.maps_of(values), **dict(self.of_assignment(stage, inner))}
        found["decoded"] = decode(torch.cat(values["deltas"], 1), torch.cat(values["cells"]))
        found |= {f"grad.neck.{i}": m.grad for i, m in enumerate(self.inputs) if m.grad is not None}
        found |= {f"grad.param.{name}": p.grad for name, p in self.model.named_parameters()}
        found |= {f"after.{name}": value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(before)
        return {**found, **self.evaluated()}

    def maps_of(self, values: dict[str, Any]) -> dict[str, Tensor]:
        """Values of the forward pass under the names of the arrays."""
        found = {}
        for level, m in enumerate(values["maps"]):
            for name, key in (("cls_logits", "logits"), ("obj_logits", "objectness"), ("reg", "deltas")):
                cells = values[key][level]
                cells = cells[..., None] if cells.dim() == 2 else cells
                found[f"{name}.{level}"] = cells.transpose(1, 2).unflatten(-1, m.shape[-2:])
            for name, key in (("stem", "stems"), ("cls_feat", "cls"), ("reg_feat", "box"), ("neck", "maps")):
                found[f"{name}.{level}"] = values[key][level]
        return found | {f"backbone.{name}": m for name, m in zip(MAPS, values.get("backbone", ()))}

    def of_assignment(self, stage: dict[str, Any], inner: Any) -> Iterator[tuple[str, Tensor]]:
        """The assignment, image by image, without the entries that fill up."""
        labels = AssignedLabels(self.hp("num_classes"))(stage["indices"], self.labels)["labels"]
        positive = torch.cat(stage["positive"], 1)
        assert torch.equal(positive, torch.cat(labels, 1) < self.hp("num_classes"))
        yield "candidates", inner.candidates
        yield "matched", inner.indices
        yield "num_fg", positive.sum()
        yield "iou_targets", torch.cat(stage["iou"], 1)[positive]
        for i, boxes in enumerate(self.boxes):
            own, places = slice(len(boxes)), inner.candidates[i]
            yield f"geometry.{i}", inner.near[i, own]
            yield f"ious.{i}", inner.overlaps[i, own][:, places]
            yield f"cost.{i}", inner.cost[i, own][:, places]
            yield f"dynamic_k.{i}", inner.counts[i, own]

    def evaluated(self) -> dict[str, Tensor]:
        """Outputs and detections on the statistics that were given."""
        self.model.eval()
        with torch.no_grad():
            values = self.forward()
        places = decode(torch.cat(values["deltas"], 1), torch.cat(values["cells"]))
        present, chances = torch.cat(values["objectness"], 1).sigmoid(), torch.cat(values["logits"], 1).sigmoid()
        found = {"eval.output": torch.cat([places, present[..., None], chances], -1)}
        scores = torch.cat(stages.Scores()(values["logits"], values["objectness"])["scores"], 1)
        for i, own in enumerate(zip(corners_of(places), scores)):
            found[f"eval.detections.{i}"] = self.rows(self.model.suppress(*own), corners_of(places[i]), present[i], chances[i])
        return found

    def rows(self, kept: dict[str, Tensor], boxes: Tensor, present: Tensor, chances: Tensor) -> Tensor:
        """Detections with both of their probabilities, whose product is the score."""
        places = (kept["boxes"][:, None] == boxes).all(-1).int().argmax(1)
        own = chances[places, kept["labels"]]
        torch.testing.assert_close(own * present[places], kept["scores"])
        return torch.cat([kept["boxes"], torch.stack([present[places], own, kept["labels"].to(self.dtype)], 1)], 1)


def compare(key: str, actual: Tensor, expected: Tensor, dtype: torch.dtype, whole: bool) -> None:
    name = key.partition(".")[2]
    assert actual.shape == expected.shape, key
    if not expected.is_floating_point():
        assert torch.equal(actual, expected), key
        return
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-9}
    if name.startswith("cost"):
        near = expected < 1e5  # single precision has steps of 0.06 beyond
        assert torch.equal(near, actual < 1e5), key
        actual, expected, close = actual[near], expected[near], {**close, "rtol": 1e-3}
    if name.startswith("grad.") and whole:
        close = {"rtol": 0.0, "atol": (2e-3 if dtype == torch.float32 else 1e-9) * float(expected.abs().max())}
    if name.startswith(("decoded", "eval.")) and dtype == torch.float32:
        close = {**close, "atol": 1e-4}
    torch.testing.assert_close(actual.detach().to(expected.dtype), expected, **close, msg=lambda text: f"{key}: {text}")


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_the_detector_reproduces_the_original_code(path: Path, dtype: torch.dtype) -> None:
    case = Case(path, dtype)
    found = case.found()
    prefix = "expected." if dtype == torch.float32 else "expected64."
    keys = [key for key in case.arrays if key.startswith(prefix)]
    assert keys
    for key in keys:
        compare(key, found[key.removeprefix(prefix)], torch.as_tensor(case.arrays[key]), dtype, case.whole)
    assert case.used == {key for key in case.arrays if not key.startswith("expected")}


def released(variant: str) -> SimpleNamespace:
    depth, width, depthwise = VARIANTS[variant]
    with torch.device("meta"):
        model = YOLOX(PAFPN(depth, width, depthwise), Head(80, width, depthwise), min_size=64, max_size=64)
    return SimpleNamespace(state=model.state_dict(), parameters=list(model.parameters()))


@pytest.mark.parametrize("file", sorted(FOLDER.glob("keys-*.json")), ids=lambda p: p.stem)
def test_the_state_dict_is_that_of_the_released_weights_in_their_order(file: Path) -> None:
    state = released(file.stem.removeprefix("keys-")).state
    wanted = json.loads(file.read_text())
    assert list(state) == list(wanted)
    assert {key: list(value.shape) for key, value in state.items()} == wanted


@pytest.mark.parametrize(
    ("variant", "millions", "entries", "parameters"),
    [
        ("nano", 0.912, 642, 330),
        ("tiny", 5.056, 462, 240),
        ("s", 8.968, 462, 240),
        ("m", 25.326, 606, 312),
        ("l", 54.209, 750, 384),
        ("x", 99.071, 894, 456),
    ],
)
def test_every_variant_has_the_published_size(variant: str, millions: float, entries: int, parameters: int) -> None:
    model = released(variant)
    assert round(sum(p.numel() for p in model.parameters) / 1e6, 3) == millions
    assert (len(model.state), len(model.parameters)) == (entries, parameters)
