"""A toy detector: two maps, one head, one loss. Small enough to follow by hand, with everything a graph meets in a real one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.errors import UsageError
from kdflow.kinds import SCALAR
from kdflow.ports import CLASS_SCORES, Batch, Call, Detector, Port, Stage


class Model(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.neck = nn.ModuleList([nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 3, 2, 1)])
        self.head = nn.Conv2d(width, 2, 1)


class Backbone(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.layers = model.backbone

    def forward(self, images: Tensor) -> dict[str, Any]:
        return {"maps": [self.layers(images)]}


class Neck(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.layers = model.neck

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        return {"maps": [layer(maps[0]) for layer in self.layers]}


class Head(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.conv = model.head
        self.calls = 0

    def forward(self, maps: list[Tensor], scale: float = 1.0) -> dict[str, Any]:
        self.calls += 1
        return {"logits": [scale * self.conv(m).flatten(2).transpose(1, 2) for m in maps]}


class Sample(nn.Module):
    """Draws, so that random streams can be seen."""

    def forward(self, logits: list[Tensor]) -> dict[str, Any]:
        return {"positive": [torch.rand(x.shape[:2]) < 0.5 for x in logits]}


class Loss(nn.Module):
    def forward(self, logits: list[Tensor], boxes: list[Tensor]) -> dict[str, Any]:
        count = sum(len(b) for b in boxes)
        return {"loss": sum(x.square().mean() for x in logits) * (1 + count)}


def no_source(detector: Detector) -> Any:
    raise UsageError("a toy has no source")


def stages_of(model: Model, width: int) -> dict[str, Stage]:
    logits = Port("head.logits", form="sigmoid", classes=CLASS_SCORES)
    return {
        "backbone": Stage(
            Backbone(model), {"images": "images"}, {"maps": Port("backbone", channels=width, strides=(2,))}
        ),
        "neck": Stage(Neck(model), {"maps": "backbone"}, {"maps": Port("neck", channels=width, strides=(2, 4))}),
        "head": Stage(Head(model), {"maps": "neck"}, {"logits": logits}, options={"scale": 1.0}),
        "assign": Stage(Sample(), {"logits": "head.logits"}, {"positive": Port("assign.positive")}, stochastic=True),
        "loss": Stage(
            Loss(), {"logits": "head.logits", "boxes": "targets.boxes"}, {"loss": Port("losses.loss", SCALAR)}
        ),
    }


CALLS = {
    "head": Call({"features": "neck"}, {"logits": "head.logits"}, {"scale": "head"}),
    "everything": Call({"maps": "neck:maps"}, {"neck": "neck", "logits": "head.logits"}),
}


def make_toy(width: int = 4, classes: tuple[str, ...] = ("a", "b"), losses: tuple[str, ...] = ("loss",), **more: Any) -> Detector:
    """A toy; ``more`` are fields of the detector."""
    model = Model(width)
    fields: dict[str, Any] = {"stages": stages_of(model, width), "writer": no_source, "size_divisor": 4, **more}
    named = {name: f"losses.{name}" for name in losses}
    return Detector("toy", "dense", "tests", classes, model, calls=dict(CALLS), losses=named, **fields)


def toys(teacher_width: int = 4) -> dict[str, Any]:
    torch.manual_seed(0)
    return {"student": make_toy(), "teacher": make_toy(teacher_width)}


class Detect(nn.Module):
    def forward(self, logits: list[Tensor]) -> dict[str, Any]:
        return {"detections": [{"scores": scores.flatten()} for scores in torch.cat(logits, dim=1)]}


def see(detector: Detector, images: Tensor, image_sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
    model: Any = detector.model
    logits = [model.head(layer(model.backbone(images))) for layer in model.neck]
    return [{"scores": s.flatten()} for s in torch.cat([x.flatten(2).transpose(1, 2) for x in logits], dim=1)]


def make_seeing(width: int = 4) -> Detector:
    """A toy that predicts: its class scores, as they are."""
    found = make_toy(width, inference=see)
    detect = Stage(Detect(), {"logits": "head.logits"}, {"detections": Port("detections")})
    return replace(found, stages={**found.stages, "detect": detect})


def toy_batch(*counts: int, side: int = 16) -> Batch:
    """Random images, the same each time, with so many boxes each; one box in each of two unless told."""
    torch.manual_seed(1)
    box = torch.tensor([[1.0, 1.0, 9.0, 9.0]])
    counts = counts or (1, 1)
    boxes, labels = [box.repeat(count, 1) for count in counts], [torch.zeros(count).long() for count in counts]
    return Batch(torch.rand(len(counts), 3, side, side), [(side, side)] * len(counts), boxes, labels)
