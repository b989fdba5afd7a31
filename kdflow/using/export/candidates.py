"""Detectors at a fixed input size, with as many candidates for every picture: what a graph without Python can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.detectors.dense_stages import DenseDetect
from kdflow.detectors.hf_parts import Postprocess
from kdflow.errors import UsageError
from kdflow.ports import Detector

Found = tuple[Tensor, Tensor, Tensor]
"""Boxes (N, C, 4) xyxy pixels of the input, scores (N, C), labels (N, C)."""


@dataclass(frozen=True)
class Suppression:
    """What happens to the candidates of a picture.

    Attributes:
        score: Candidates have more than this score; -1 takes all.
        iou: A candidate that overlaps a better one of its class by more is dropped; None keeps all.
        limit: Most detections of a picture.
    """

    score: float = -1.0
    iou: float | None = None
    limit: int = 0


class SetCandidates(nn.Module):
    """A DETR: its queries, decoded as its library's image processor does."""

    mask: Tensor

    def __init__(self, detector: Detector, size: tuple[int, int], canvas: tuple[int, int]) -> None:
        super().__init__()
        prepare, postprocess = (detector.stages[name].run for name in ("normalize", "postprocess"))
        if not isinstance(postprocess, Postprocess) or postprocess.processor not in DECODERS:
            raise UsageError(f"{detector.name}: how its library decodes detections has no ONNX form here")
        self.model = detector.model
        self.normalize = _statistics(getattr(prepare, "normalize", None))
        self.decode = DECODERS[postprocess.processor]
        self.options = dict(postprocess.options)
        self.size, self.canvas = size, canvas
        mask = torch.zeros(1, *canvas, dtype=torch.long)
        mask[:, : size[0], : size[1]] = 1
        self.register_buffer("mask", mask, persistent=False)
        self.suppression = Suppression()

    def forward(self, pictures: Tensor) -> Found:
        """Candidates of (N, 3, height, width) pictures in 0..1, resized and not padded."""
        pixels = _padded(self.normalize(pictures), self.canvas)
        outputs = self.model(pixel_values=pixels, pixel_mask=self.mask.expand(pixels.shape[0], -1, -1))
        scores, labels, queries = self.decode(outputs.logits, self.options)
        boxes = outputs.pred_boxes
        if queries is not None:
            boxes = boxes.gather(1, queries[..., None].expand(-1, -1, 4))
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        scale = boxes.new_tensor([self.size[1], self.size[0]] * 2)
        return torch.cat([centre - half, centre + half], -1) * scale, scores, labels


Decoded = tuple[Tensor, Tensor, "Tensor | None"]


def _softmax(logits: Tensor, options: Mapping[str, Any]) -> Decoded:
    """A class per query; the last one is the background."""
    del options
    scores, labels = logits.softmax(-1)[..., :-1].max(-1)
    return scores, labels, None


def _best_pairs(logits: Tensor, options: Mapping[str, Any]) -> Decoded:
    """The best pairs of query and class, as many as ``top_k``, else as queries."""
    queries, classes = int(logits.shape[1]), int(logits.shape[2])
    count = min(options.get("top_k") or queries, queries * classes)
    scores, chosen = logits.sigmoid().flatten(1).topk(count, dim=1)
    return scores, chosen % classes, chosen // classes


def _focal_or_softmax(logits: Tensor, options: Mapping[str, Any]) -> Decoded:
    return _best_pairs(logits, {}) if options.get("use_focal_loss", True) else _softmax(logits, options)


DECODERS: Mapping[str, Callable[[Tensor, Mapping[str, Any]], Decoded]] = {
    "DetrImageProcessor": _softmax,
    "ConditionalDetrImageProcessor": _best_pairs,
    "DeformableDetrImageProcessor": _best_pairs,
    "RTDetrImageProcessor": _focal_or_softmax,
}


class DenseCandidates(nn.Module):
    """A dense head: its places, of each level the best pairs of place and class."""

    def __init__(self, detector: Detector, size: tuple[int, int], canvas: tuple[int, int]) -> None:
        super().__init__()
        detect = detector.stages["detections"].run
        if not isinstance(detect, DenseDetect) or detector.name not in SCORES:
            raise UsageError(f"{detector.name}: how it chooses among its places has no ONNX form here")
        self.model = detector.model
        self.normalize = _statistics(detector.stages["normalize"].run)
        self.score = SCORES[detector.name]
        self.size, self.canvas = size, canvas
        self.stages = [(name, stage) for name, stage in detector.stages.items() if name != "normalize"]
        self.runs = nn.ModuleList(stage.run for _, stage in self.stages if isinstance(stage.run, nn.Module))
        model: Any = detector.model
        self.most = int(model.topk_candidates)
        self.suppression = Suppression(
            float(model.score_thresh), float(model.nms_thresh), int(model.detections_per_img)
        )
        with torch.no_grad():
            self.priors = self._run({"normalize.pixels": torch.zeros(1, 3, *canvas)}, ("head.priors",))["head.priors"]

    def forward(self, pictures: Tensor) -> Found:
        """Candidates of (N, 3, height, width) pictures in 0..1, resized and not padded."""
        pixels = _padded(self.normalize(pictures), self.canvas)
        values = self._run({"normalize.pixels": pixels, "head.priors": self.priors}, ("head.boxes", "head.logits"))
        levels = [self._best(values, level) for level in range(len(values["head.logits"]))]
        boxes, scores, labels = (torch.cat(parts, dim=1) for parts in zip(*levels))
        limit = boxes.new_tensor([self.size[1], self.size[0]] * 2)
        return boxes.clamp(min=0).minimum(limit), scores, labels

    def _best(self, values: Mapping[str, Any], level: int) -> Found:
        scores = self.score(values, level)
        places, classes = int(scores.shape[1]), int(scores.shape[2])
        best, chosen = scores.flatten(1).topk(min(self.most, places * classes), dim=1)
        boxes = values["head.boxes"][level].gather(1, (chosen // classes)[..., None].expand(-1, -1, 4))
        return boxes, best, chosen % classes

    def _run(self, values: dict[str, Any], wanted: tuple[str, ...]) -> dict[str, Any]:
        """Values of ports, by running the stages that need no more than what is there."""
        for _, stage in self.stages:
            made = [port.name for _, port in stage.ports]
            if all(name in values for name in made) or not all(name in values for name in stage.reads.values()):
                continue
            result = stage.run(**{argument: values[name] for argument, name in stage.reads.items()})
            values |= {port.name: result[key] for key, port in stage.ports if key in result and port.name not in values}
            if all(name in values for name in wanted):
                return values
        raise UsageError(f"this head does not offer {', '.join(name for name in wanted if name not in values)}")


def _sigmoid(values: Mapping[str, Any], level: int) -> Tensor:
    return torch.sigmoid(values["head.logits"][level])


def _with_centerness(values: Mapping[str, Any], level: int) -> Tensor:
    centred = torch.sigmoid(values["head.centerness"][level])[..., None]
    return torch.sqrt(_sigmoid(values, level) * centred)


SCORES: Mapping[str, Callable[[Mapping[str, Any], int], Tensor]] = {
    "retinanet": _sigmoid,
    "fcos": _with_centerness,
    "gfl": _sigmoid,
    "atss": _with_centerness,
}


class Statistics(nn.Module):
    """Subtracts a mean and divides by a standard deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().clone(), persistent=False)
        self.register_buffer("std", std.detach().clone(), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures in 0..1 -> what the model sees."""
        return (pictures - self.mean) / self.std


def _statistics(normalize: Any) -> nn.Module:
    return nn.Identity() if normalize is None else Statistics(normalize.mean, normalize.std)


def _padded(pixels: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Zeros on the right and below."""
    height, width = int(pixels.shape[-2]), int(pixels.shape[-1])
    return nn.functional.pad(pixels, (0, canvas[1] - width, 0, canvas[0] - height))


def candidates(detector: Detector, size: tuple[int, int], canvas: tuple[int, int]) -> SetCandidates | DenseCandidates:
    """The detector at a fixed size.

    Args:
        detector: In evaluation mode, wired as its library has it.
        size: (height, width) of resized pictures.
        canvas: The same with their padding.

    Raises:
        UsageError: Its family has no such form; the message says why.
    """
    if detector.family == "two-stage":
        raise UsageError(
            f"{detector.name}: its second stage looks at regions whose number depends on the picture, which ONNX files of kdflow "
            "cannot hold. Next: --format torch (student.py and its weights), or --format safetensors"
        )
    if detector.library == "transformers":
        return SetCandidates(detector, size, canvas)
    if "detections" in detector.stages and "normalize" in detector.stages:
        return DenseCandidates(detector, size, canvas)
    raise UsageError(f"{detector.name}: it brings a forward pass of its own, which is exported with its own tools")
