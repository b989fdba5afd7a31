"""A toy detector: two maps, one head, one loss. Small enough to follow by hand, with everything a graph meets in a real one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.errors import UsageError
from kdflow.kinds import SCALAR
from kdflow.ports import Batch, Call, PortSpec, Stage, standard_port
from kdflow.source import Source


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


@dataclass
class Toy:
    name: str = "toy"
    family: str = "dense"
    library: str = "tests"
    classes: tuple[str, ...] = ("a", "b")
    width: int = 4
    size_divisor: int = 4
    losses: dict[str, str] = field(default_factory=lambda: {"loss": "losses.loss"})

    def __post_init__(self) -> None:
        self.model = Model(self.width)

        def port(name: str, stage: str, key: str, **more: Any) -> PortSpec:
            return standard_port(name, self.family, stage, key, **more)

        self.ports = {
            "backbone": port("backbone", "backbone", "maps", channels=(self.width,), strides=(2,)),
            "neck": port("neck", "neck", "maps", channels=(self.width,) * 2, strides=(2, 4)),
            "head.logits": port("head.logits", "head", "logits", form="sigmoid"),
            "assign.positive": port("assign.positive", "assign", "positive"),
            "losses.loss": PortSpec(SCALAR, "loss", "loss"),
        }
        self.stages = {
            "backbone": Stage(Backbone(self.model), {"images": "images"}, ("maps",)),
            "neck": Stage(Neck(self.model), {"maps": "backbone"}, ("maps",)),
            "head": Stage(Head(self.model), {"maps": "neck"}, ("logits",), options={"scale": 1.0}),
            "assign": Stage(Sample(), {"logits": "head.logits"}, ("positive",), stochastic=True),
            "loss": Stage(Loss(), {"logits": "head.logits", "boxes": "targets.boxes"}, ("loss",)),
        }
        self.calls = {
            "head": Call({"features": "neck"}, {"logits": "head.logits"}, {"scale": "head"}),
            "everything": Call({"maps": "neck:maps"}, {"neck": "neck", "logits": "head.logits"}),
        }

    def predict(self, images: Tensor, image_sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        raise NotImplementedError

    def source(self) -> Source:
        raise UsageError("a toy has no source")


def toys(teacher_width: int = 4) -> dict[str, Any]:
    torch.manual_seed(0)
    return {"student": Toy(), "teacher": Toy(width=teacher_width)}


class Detect(nn.Module):
    def forward(self, logits: list[Tensor]) -> dict[str, Any]:
        return {"detections": [{"scores": scores.flatten()} for scores in torch.cat(logits, dim=1)]}


@dataclass
class Seeing(Toy):
    """A toy that predicts: its class scores, as they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stages["detect"] = Stage(Detect(), {"logits": "head.logits"}, ("detections",))
        self.ports["detections"] = standard_port("detections", self.family, "detect", "detections")

    def predict(self, images: Tensor, image_sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        logits = [self.model.head(layer(self.model.backbone(images))) for layer in self.model.neck]
        return [{"scores": s.flatten()} for s in torch.cat([x.flatten(2).transpose(1, 2) for x in logits], dim=1)]


def toy_batch(*counts: int, side: int = 16) -> Batch:
    """Random images, the same each time, with so many boxes each; one box in each of two unless told."""
    torch.manual_seed(1)
    box = torch.tensor([[1.0, 1.0, 9.0, 9.0]])
    counts = counts or (1, 1)
    boxes, labels = [box.repeat(count, 1) for count in counts], [torch.zeros(count).long() for count in counts]
    return Batch(torch.rand(len(counts), 3, side, side), [(side, side)] * len(counts), boxes, labels)
