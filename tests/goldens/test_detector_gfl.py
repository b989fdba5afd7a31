"""GFL's head, assignment and losses against mmdetection's numbers: every ``expected`` array of every case is compared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdflow.detectors.dense_stages import HeadPredict, Tail, Tower, Towers
from kdflow.detectors.gfl_model import GFLHead, square_priors
from kdflow.detectors.point_stages import GflLoss, PointAssign, PointDecode, PointTargets
from kdflow.functional import boxes as bx

FOLDER = Path(os.environ.get("KDFLOW_GOLDENS", Path(__file__).parent)) / "detector-gfl"
CASES = sorted(FOLDER.glob("case*.npz"))
TERMS = ("loss_cls", "loss_bbox", "loss_dfl")


def test_there_are_cases() -> None:
    assert CASES


class Case:
    """The detector's own stages on the arrays of one case."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        self.arrays = dict(np.load(path))
        self.dtype = dtype
        self.used: set[str] = set()
        self.neck = [m.requires_grad_() for m in self.all("student.neck")]
        self.head = self.make_head()
        self.boxes, self.labels = self.all("gt_boxes"), self.all("gt_labels")
        self.sizes = [tuple(int(s) for s in size) for size in self["padded_size_per_image"]]
        assert tuple(int(s) for s in self["image_size"]) == tuple(max(side) for side in zip(*self.sizes))

    def __getitem__(self, key: str) -> Any:
        self.used.add(key)
        value = torch.as_tensor(self.arrays[key])
        return value.to(self.dtype) if value.is_floating_point() else value

    def all(self, prefix: str) -> list[Any]:
        count = sum(key.startswith(f"{prefix}.") for key in self.arrays)
        return [self[f"{prefix}.{i}"].clone() for i in range(count)]

    def hp(self, name: str) -> Any:
        return self[f"hp.{name}"].item()

    def make_head(self) -> GFLHead:
        strides = tuple(int(s) for s in self["strides"])
        head = GFLHead(
            self.neck[0].shape[1],
            self.hp("num_classes"),
            strides,
            self.hp("stacked_convs"),
            self.hp("gn_groups"),
            8.0,
            bins=self.hp("reg_max"),
        ).to(self.dtype)
        head.load_state_dict({key[6:]: self[key] for key in self.arrays if key.startswith("param.")})
        return head

    def loss(self, cls_loss: str = "qfl") -> GflLoss:
        weights = {"loss_cls": self.hp("w_cls"), "loss_bbox": self.hp("w_bbox"), "loss_dfl": self.hp("w_dfl")}
        focus = self.hp("qfl_beta"), self.hp("vfl_alpha"), self.hp("vfl_gamma")
        return GflLoss(self.head, weights, cls_loss, "score", *focus)

    def run(self) -> dict[str, Any]:
        towers = Towers(Tower(self.head.cls_convs), Tower(self.head.reg_convs))
        features = towers(self.neck)
        outputs = Tail(towers, HeadPredict(self.head), self.head.outputs)(features["cls"], features["box"])
        priors = [p.to(self.dtype) for p in square_priors(self.neck, self.head.strides, self.head.side)]
        decoded = PointDecode(self.head, "distribution")(outputs["distribution"], priors)["boxes"]
        assigned = PointAssign(self.head.strides, self.hp("atss_topk"), 1)(priors, self.neck, self.boxes, self.sizes)
        targets = PointTargets(priors, assigned["indices"], self.boxes, self.labels)
        return {**outputs, "decoded": decoded, "assigned": assigned, "targets": targets, "priors": priors}

    def found(self) -> dict[str, Any]:
        """What each ``expected.<name>`` should be."""
        values = self.run()
        assigned, targets, logits = values["assigned"], values["targets"], values["logits"]
        found: dict[str, Any] = {
            "decoded_boxes": torch.cat(values["decoded"], 1),
            "label_weights": torch.cat(assigned["weights"], 1),
            "num_total_pos": targets.count,
            "labels": self.classes(assigned),
            "iou_targets": self.ious(values),
        }
        for level, (scores, edges) in enumerate(zip(logits, values["distribution"])):
            found[f"cls_logits.{level}"] = self.as_map(scores, level)
            found[f"box_logits.{level}"] = self.as_map(edges, level)
        outputs = {"logits": logits, "distribution": values["distribution"]}
        arguments = values["priors"], assigned["indices"], self.boxes, self.labels
        per_level, total = self.loss().per_level(targets, **outputs), self.loss()(*arguments, **outputs)
        for name in TERMS:
            found[name] = total[name]
            found[f"{name}.per_level"] = torch.stack(per_level[name]) * self.loss().weights[name]
        found["loss_vfl"] = self.loss("vfl")(*arguments, **outputs)["loss_cls"]
        (grad,) = torch.autograd.grad(found["loss_vfl"], logits[0], retain_graph=True)
        found["grad_vfl.cls_logits.0"] = self.as_map(grad, 0)
        sum(total.values()).backward()
        found |= {f"grad.student.neck.{i}": m.grad for i, m in enumerate(self.neck)}
        found["grad.param.gfl_cls.weight"] = self.head.gfl_cls.weight.grad
        found["grad.param.scales.0.scale"] = self.head.scales[0].scale.grad
        return found

    def as_map(self, cells: torch.Tensor, level: int) -> torch.Tensor:
        return cells.transpose(1, 2).unflatten(-1, self.neck[level].shape[-2:])

    def classes(self, assigned: dict[str, Any]) -> torch.Tensor:
        indices, background = torch.cat(assigned["indices"], 1), self.hp("num_classes")
        chosen = [torch.cat([own, own.new_tensor([background])]) for own in self.labels]
        return torch.stack([own[torch.where(i >= 0, i, len(own) - 1)] for own, i in zip(chosen, indices)])

    def ious(self, values: dict[str, Any]) -> torch.Tensor:
        positive = torch.cat(values["assigned"]["positive"], 1)
        boxes = torch.cat(values["decoded"], 1)[positive], torch.cat(values["assigned"]["matched_boxes"], 1)[positive]
        return bx.iou(*boxes)


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_the_detector_reproduces_the_original_code(path: Path, dtype: torch.dtype) -> None:
    case = Case(path, dtype)
    found = case.found()
    prefix = "expected." if dtype == torch.float32 else "expected64."
    keys = [key for key in case.arrays if key.startswith(prefix)]
    for key in keys:
        expected = torch.as_tensor(case.arrays[key])
        actual = found[key.removeprefix(prefix)].detach().to(expected.dtype)
        assert actual.shape == expected.shape, key
        close = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(actual, expected, **close, msg=lambda text, key=key: f"{key}: {text}")
    assert keys or dtype == torch.float64
    inputs = {key for key in case.arrays if not key.startswith("expected")}
    assert case.used == inputs


def test_the_distribution_gives_expected_distances() -> None:
    head = GFLHead(32, 2, (8,), 1, 4, 8.0, bins=16)
    uniform = head.distances(torch.zeros(1, 3, 68))
    torch.testing.assert_close(uniform, torch.full((1, 3, 4), 8.0))
    certain = torch.zeros(1, 1, 4, 17)
    certain[..., 5] = 100
    torch.testing.assert_close(head.distances(certain.flatten(2)), torch.full((1, 1, 4), 5.0))
