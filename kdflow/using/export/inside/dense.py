"""Dense heads: their places, and the best of them as their library chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.errors import UsageError
from kdflow.ports import Detector
from kdflow.using.export.inside.candidates import Canvas, Found, Size, Stages, Suppression, pick, within

Levels = Sequence[Tensor]


@dataclass(frozen=True)
class Choice:
    """How a family's inference looks at its places.

    Attributes:
        reads: Ports that the scores are made of.
        scores: Their values on a level -> (N, R, K).
        best: (boxes and scores of all levels, most candidates) -> candidates.
        cut: Boxes are cut at the picture's border before suppression, not after it.
    """

    reads: tuple[str, ...]
    scores: Callable[..., Tensor]
    best: Callable[[Levels, Levels, int], Found]
    cut: bool = True


class DenseCandidates(nn.Module):
    """A dense detector at a fixed size.

    Raises:
        UsageError: How it chooses among its places is not known.
    """

    def __init__(self, detector: Detector, size: Size, canvas: Size) -> None:
        super().__init__()
        if detector.name not in CHOICES:
            raise UsageError(f"{detector.name}: how it chooses among its places has no ONNX form here")
        model: Any = detector.model
        self.model = model
        self.prepare = Canvas(detector.stages["normalize"].run, canvas)
        self.stages = Stages(detector)
        self.choice = CHOICES[detector.name]
        self.size = size
        self.most = int(getattr(model, "topk_candidates", 0))
        self.suppression = Suppression(
            float(model.score_thresh), float(model.nms_thresh), int(model.detections_per_img)
        )
        with torch.no_grad():
            given = {"normalize.pixels": torch.zeros(1, 3, *canvas)}
            self.priors = self.stages(given, ["head.priors"])["head.priors"]

    def forward(self, pictures: Tensor) -> Found:
        """Candidates of (N, 3, height, width) pictures in 0..1, resized and not padded."""
        choice = self.choice
        given = {"normalize.pixels": self.prepare(pictures), "head.priors": self.priors}
        values = self.stages(given, ["head.boxes", *choice.reads])
        boxes: Levels = values["head.boxes"]
        scores = [choice.scores(*level) for level in zip(*(values[name] for name in choice.reads))]
        return choice.best([within(own, self.size) for own in boxes] if choice.cut else boxes, scores, self.most)


def _sigmoid(logits: Tensor) -> Tensor:
    return logits.sigmoid()


def _geometric_mean(logits: Tensor, centerness: Tensor) -> Tensor:
    return (logits.sigmoid() * centerness.sigmoid()[..., None]).sqrt()


def _product(logits: Tensor, centerness: Tensor) -> Tensor:
    return logits.sigmoid() * centerness.sigmoid()[..., None]


def _objects(logits: Tensor) -> Tensor:
    return logits.softmax(-1)[..., :-1]


def _same(scores: Tensor) -> Tensor:
    return scores


def _pairs(boxes: Levels, scores: Levels, most: int) -> Found:
    """Of each level the best pairs of place and class."""
    return _joined([_level_pairs(*level, most) for level in zip(boxes, scores)])


def _level_pairs(boxes: Tensor, scores: Tensor, most: int) -> Found:
    places, classes = int(scores.shape[1]), int(scores.shape[2])
    best, chosen = scores.flatten(1).topk(min(most, places * classes), dim=1)
    return pick(boxes, chosen // classes), best, chosen % classes


def _places_of_classes(boxes: Levels, scores: Levels, most: int) -> Found:
    """Of all levels the best places of each class."""
    every, marks = torch.cat(list(boxes), dim=1), torch.cat(list(scores), dim=1)
    best, chosen = marks.topk(min(most, int(marks.shape[1])), dim=1)
    classes = int(marks.shape[2])
    parts = [(pick(every, chosen[..., k]), best[..., k], torch.full_like(chosen[..., k], k)) for k in range(classes)]
    return _joined(parts)


def _classes_of_places(boxes: Levels, scores: Levels, most: int) -> Found:
    """Every place with its best class."""
    del most
    best, labels = torch.cat(list(scores), dim=1).max(-1)
    return torch.cat(list(boxes), dim=1), best, labels


def _joined(parts: Sequence[Found]) -> Found:
    boxes, scores, labels = (torch.cat(list(values), dim=1) for values in zip(*parts))
    return boxes, scores, labels


LOGITS, CENTERNESS = "head.logits", "head.centerness"
CHOICES: Mapping[str, Choice] = {
    "retinanet": Choice((LOGITS,), _sigmoid, _pairs),
    "gfl": Choice((LOGITS,), _sigmoid, _pairs),
    "fcos": Choice((LOGITS, CENTERNESS), _geometric_mean, _pairs),
    "atss": Choice((LOGITS, CENTERNESS), _product, _pairs),
    "ssd": Choice((LOGITS,), _objects, _places_of_classes),
    "yolox": Choice(("head.scores",), _same, _classes_of_places, cut=False),
}
