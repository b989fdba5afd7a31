"""Modules that the transformer detectors share: normalising, features, targets, post-processing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from kdflow.detectors.normalize import Normalize
from kdflow.errors import UsageError
from kdflow.ports import ImageSizes

Labels = list[dict[str, Tensor]]


def to_labels(boxes: Sequence[Tensor], labels: Sequence[Tensor], image_sizes: ImageSizes) -> Labels:
    """Targets as the library wants them: cxcywh divided by each image's own (unpadded) width and height.

    Args:
        boxes: Per image (n, 4) xyxy pixels.
        labels: Per image (n,) 0-based classes.
        image_sizes: (height, width) per image.
    """
    targets = []
    for own, classes, (height, width) in zip(boxes, labels, image_sizes):
        x1, y1, x2, y2 = own.unbind(-1)
        sides = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
        targets.append({"class_labels": classes, "boxes": torch.stack(sides, -1)})
    return targets


class Prepare(nn.Module):
    """Normalises the images and says where they end.

    Args:
        statistics: ``imagenet``, or ``none`` to leave the values in 0..1.
        refuse_padding: Name of a model that has no padding mask; images must then fill the canvas.
    """

    def __init__(self, statistics: str, refuse_padding: str = "") -> None:
        super().__init__()
        self.normalize = Normalize() if statistics == "imagenet" else None
        self.refuse_padding = refuse_padding

    def forward(self, images: Tensor, image_sizes: ImageSizes) -> dict[str, Any]:
        """``pixels`` (B, 3, H, W) and ``mask`` (B, H, W), 1 inside the images; UsageError for refused padding."""
        canvas = (images.shape[-2], images.shape[-1])
        if self.refuse_padding and any(tuple(size) != canvas for size in image_sizes):
            raise UsageError(
                f"{self.refuse_padding} reads padding as picture (its library ignores the padding mask), so every image must "
                f"fill the canvas of {canvas[0]} x {canvas[1]}, but this batch holds {sorted(set(image_sizes))}. "
                "Set data.fixed: true with a data.size that is a multiple of 32, or choose another detector."
            )
        mask = torch.zeros((len(images), *canvas), dtype=torch.long, device=images.device)
        for row, (height, width) in zip(mask, image_sizes):
            row[:height, :width] = 1
        return {
            "pixels": images if self.normalize is None else self.normalize(images, image_sizes)["pixels"],
            "mask": mask,
        }


class Backbone(nn.Module):
    """The library's backbone (its own, or a timm one)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> dict[str, Any]:
        """``maps``: one (B, C, H, W) per stage, finest first."""
        found = self.model(pixels)
        return {"maps": list(getattr(found, "feature_maps", found))}


class Projection(nn.Module):
    """Layers to the transformer's width: one for each of the coarsest maps; levels beyond these are made from the one before."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``maps`` (B, D, H, W) per level."""
        read = maps[-len(self.layers) :]
        projected = [layer(m) for layer, m in zip(self.layers, read)]
        for i, layer in enumerate(self.layers[len(read) :]):
            projected.append(layer(projected[-1] if i else read[-1]))
        return {"maps": projected}


class Memory(nn.Module):
    """The memory as one sequence, as selection and decoder read it."""

    def __init__(self, flat: Callable[[list[Tensor]], Tensor]) -> None:
        super().__init__()
        self.flat = flat

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``tokens`` (B, S, D)."""
        return {"tokens": self.flat(maps)}


class Targets(nn.Module):
    """Hands the ground truth to matching and criterion, as ports that a call may replace."""

    def forward(self, boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Any]:
        """``boxes`` and ``labels`` unchanged."""
        return {"boxes": list(boxes), "labels": list(labels)}


def draws(config: Any) -> bool:
    """True where a transformer of this configuration drops out, so that its stages draw random numbers in training."""
    return any(getattr(config, name, 0) for name in ("dropout", "attention_dropout", "activation_dropout"))


class Everything:
    """A threshold that everything passes: ``scores[scores > Everything()]`` is all of them, by no mask that the host reads."""

    def __lt__(self, scores: object) -> slice:
        return slice(None)


class Postprocess(nn.Module):
    """The library's own post-processing, without a score threshold.

    Args:
        processor: Name of the image processor class in transformers.
        options: Further options of its ``post_process_object_detection``.
    """

    def __init__(self, processor: str, **options: Any) -> None:
        super().__init__()
        self.processor = processor
        self.options = options

    def forward(self, logits: list[Tensor], boxes: list[Tensor], image_sizes: ImageSizes) -> dict[str, Any]:
        """``detections``: per image boxes (xyxy pixels), scores and 0-based labels, best first where the library sorts."""
        return {"detections": self.decode(SimpleNamespace(logits=logits[-1], pred_boxes=boxes[-1]), image_sizes)}

    def decode(self, outputs: Any, image_sizes: ImageSizes) -> list[dict[str, Tensor]]:
        """Detections of a library output (``logits``, ``pred_boxes``)."""
        import transformers

        processor = getattr(transformers, self.processor)()
        sizes = torch.tensor(image_sizes)
        return processor.post_process_object_detection(outputs, threshold=Everything(), target_sizes=sizes, **self.options)

    def infer(self, logits: list[Tensor], boxes: list[Tensor], image_sizes: ImageSizes) -> dict[str, Any]:
        """As many detections as queries, or as the processor takes of all scores."""
        del boxes
        like, top = logits[-1], self.options.get("top_k")
        count = min(top, like.shape[1] * like.shape[2]) if top else like.shape[1]
        one = {
            "scores": like.new_empty(count),
            "labels": like.new_empty(count, dtype=torch.long),
            "boxes": like.new_empty(count, 4),
        }
        return {"detections": [dict(one) for _ in image_sizes]}
