"""The same distillation as a person writes it for one pair: plain torchvision models, hooks, formulas in place."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.transform import GeneralizedRCNNTransform

Maps = Sequence[Tensor]
Boxes = Sequence[Tensor]
Sizes = Sequence[tuple[int, int]]


class FitNet(nn.Module):
    """Mean squared error of adapted neck maps, levels added."""

    def __init__(self, ops: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.adapters = adapters(ops["aligned"])
        self.weight = weights["kd/hint"]

    def forward(self, ours: Maps, theirs: Maps, boxes: Boxes, sizes: Sizes) -> dict[str, Tensor]:
        del boxes, sizes
        losses = [functional.mse_loss(layer(s).float(), t.float()) for layer, s, t in zip(self.adapters, ours, theirs)]
        return {"kd/hint": self.weight * sum(losses)}


class Pkd(nn.Module):
    """Half the mean squared error of standardised maps of the first four levels."""

    def __init__(self, ops: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.adapters = adapters(ops["aligned"]) if "aligned" in ops else nn.ModuleList(nn.Identity() for _ in range(4))
        self.weight = weights["kd/neck"]

    def forward(self, ours: Maps, theirs: Maps, boxes: Boxes, sizes: Sizes) -> dict[str, Tensor]:
        del boxes, sizes
        losses = [
            functional.mse_loss(self.norm(layer(s).float()), self.norm(t.float())) / 2
            for layer, s, t in zip(self.adapters, ours, theirs)
        ]
        return {"kd/neck": self.weight * sum(losses)}

    @staticmethod
    def norm(x: Tensor) -> Tensor:
        std, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True)
        return (x - mean) / (std + 1e-6)


class Context(nn.Module):
    """Global context block on given layers."""

    def __init__(self, op: Any) -> None:
        super().__init__()
        self.key, self.reduce, self.norm, self.expand = map(copy.deepcopy, (op.key, op.reduce, op.norm, op.expand))

    def forward(self, x: Tensor) -> Tensor:
        where = self.key(x).flatten(2).softmax(2)
        seen = x.flatten(2) @ where.transpose(1, 2)
        return x + self.expand(self.norm(self.reduce(seen[..., None])).relu())


class Fgd(nn.Module):
    """Focal and global terms per level; squared error and teacher attention are made once for both focal terms."""

    def __init__(self, ops: Mapping[str, Any], weights: Mapping[str, float], temperature: float = 0.5) -> None:
        super().__init__()
        self.ours = nn.ModuleList(Context(op) for op in ops["context_student"])
        self.theirs = nn.ModuleList(Context(op) for op in ops["context_teacher"])
        self.adapters = adapters(ops["aligned"])
        self.weights, self.temperature = dict(weights), temperature

    def forward(self, ours: Maps, theirs: Maps, boxes: Boxes, sizes: Sizes) -> dict[str, Tensor]:
        sums: dict[str, Any] = dict.fromkeys(("objects", "rest", "places", "channels", "relation"), 0.0)
        count = len(boxes)
        for i, adapter in enumerate(self.adapters):
            s, t = adapter(ours[i]).float(), theirs[i].float()
            our_places, our_channels = self.attention(s)
            their_places, their_channels = self.attention(t)
            with torch.no_grad():
                inside = torch.stack([self.inside(b, size, t.shape[-2:]) for b, size in zip(boxes, sizes)])[:, None]
                outside = (inside == 0).float()
                outside = outside / outside.sum((1, 2, 3), keepdim=True).clamp(min=1)
            error = (s - t).square() * their_places * their_channels
            sums["objects"] += (error * inside).sum() / count
            sums["rest"] += (error * outside).sum() / count
            sums["places"] += (our_places - their_places).abs().sum() / count
            sums["channels"] += (our_channels - their_channels).abs().sum() / count
            sums["relation"] += (self.ours[i](s) - self.theirs[i](t)).float().square().sum() / count
        return {f"kd/{name}": self.weights[f"kd/{name}"] * value for name, value in sums.items()}

    def attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        size, strength = x.shape, x.abs()
        places = (strength.mean(1).flatten(1) / self.temperature).softmax(1) * (size[2] * size[3])
        channels = (strength.mean((2, 3)) / self.temperature).softmax(1) * size[1]
        return places.view(size[0], 1, *size[2:]), channels[:, :, None, None]

    @staticmethod
    def inside(boxes: Tensor, image: tuple[int, int], grid: Sequence[int]) -> Tensor:
        height, width = grid
        if not len(boxes):
            return boxes.new_zeros(height, width)
        scaled = boxes * boxes.new_tensor([width / image[1], height / image[0]] * 2)
        x1, y1 = scaled[:, :2].floor().unbind(1)
        x2, y2 = (scaled[:, 2:].ceil() + 1).unbind(1)
        ys, xs = torch.arange(height, device=boxes.device), torch.arange(width, device=boxes.device)
        rows = (ys >= y1[:, None]) & (ys < y2[:, None])
        columns = (xs >= x1[:, None]) & (xs < x2[:, None])
        value = 1 / ((x2 - x1) * (y2 - y1))
        return (rows[:, :, None] & columns[:, None, :]).mul(value[:, None, None]).amax(0)


METHODS: dict[str, Any] = {"fitnet": FitNet, "pkd": Pkd, "fgd": Fgd}


def adapters(ops: Any) -> nn.ModuleList:
    """Copies of the plan's convolutions, so that all variants start from the same weights."""
    return nn.ModuleList(nn.Identity() if op.conv is None else copy.deepcopy(op.conv) for op in ops)


class AsLoaded(GeneralizedRCNNTransform):
    """The library's transform without its resize: the loader has resized already."""

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        return image, target


def as_loaded(model: Any) -> Any:
    """A copy of a torchvision detector that takes resized images."""
    made = copy.deepcopy(model)
    own = made.transform
    made.transform = AsLoaded(own.min_size, own.max_size, own.image_mean, own.image_std, own.size_divisible)
    return made


class HandLoop:
    """Student, teacher and terms in a loop of a few lines.

    Args:
        student: Detector that trains.
        teacher: Frozen detector, or None.
        terms: Formulas with their adapters, or None.
        full: Call the teacher as the library does; False calls its backbone and neck only, cut after the last tap.
        optimizer: ``optimizer(parameters)``.
        autocast: Type of reduced precision, or None.
    """

    def __init__(
        self, student: Any, teacher: Any, terms: nn.Module | None, *, full: bool, optimizer: Any, autocast: Any = None
    ) -> None:
        self.student, self.teacher, self.terms, self.full = student.train(), teacher, terms, full
        self.maps: dict[str, Maps] = {}
        student.backbone.register_forward_hook(lambda _m, _i, o: self.maps.update(ours=list(o.values())))
        if teacher is not None:
            teacher.eval().requires_grad_(False)
            teacher.backbone.register_forward_hook(lambda _m, _i, o: self.maps.update(theirs=list(o.values())))
        parameters = [*student.parameters(), *(terms.parameters() if terms is not None else ())]
        self.parameters = [p for p in parameters if p.requires_grad]
        self.optimizer = optimizer(self.parameters)
        self.device, self.autocast = self.parameters[0].device.type, autocast

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Named, weighted losses of one batch."""
        with torch.autocast(self.device, self.autocast, enabled=self.autocast is not None):
            if self.teacher is not None:
                with torch.no_grad():
                    if self.full:
                        self.teacher(batch.images)
                    else:
                        self.teacher.backbone(self.teacher.transform(batch.images)[0].tensors)
            losses = {f"det/{name}": loss for name, loss in self.student(batch.images, batch.targets).items()}
            if self.terms is not None:
                losses.update(self.terms(self.maps["ours"], self.maps["theirs"], batch.boxes, batch.sizes))
        self.maps.clear()
        return losses

    def step(self, batch: Any) -> None:
        """One optimizer step."""
        loss = sum(self.losses(batch).values())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        self.optimizer.step()
