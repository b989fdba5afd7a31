"""How modules of detectors are called: torchvision's way and that of the transformers library."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from kdflow.detectors.hf_parts import to_labels
from kdflow.detectors.normalize import Normalize
from kdflow.detectors.torchvision_parts import Ready, library_targets
from kdflow.functional.box_forms import to_corners
from kdflow.ports import Detections, ImageSizes


class TorchvisionConvention:
    """``model(images, targets)`` gives a dict of losses in training, ``model(images)`` detections per image in evaluation.

    Images come as a list of (3, H, W) floats in 0..1 on one canvas, targets as dicts of ``boxes`` (xyxy pixels) and ``labels``.
    A model with torchvision's own transform gets them as if that had resized and padded them.

    Args:
        first_label: The model's label of the first class.
    """

    total: str | None = None
    """The loss terms have no sum of their own."""

    def __init__(self, first_label: int = 0) -> None:
        self.first_label = first_label

    def losses(
        self, model: nn.Module, images: Tensor, image_sizes: ImageSizes, boxes: list[Tensor], labels: list[Tensor]
    ) -> Mapping[str, Tensor]:
        """The loss terms; see :class:`kdflow.detectors.module_stage.Convention`."""
        with ready(model, image_sizes):
            found: Mapping[str, Tensor] = model(list(images), library_targets(boxes, labels, self.first_label))
        return found

    def detections(self, model: nn.Module, images: Tensor, image_sizes: ImageSizes) -> Detections:
        """Boxes, scores and 0-based labels."""
        with ready(model, image_sizes):
            found: Detections = model(list(images))
        return [{**one, "labels": one["labels"] - self.first_label} for one in found]


@contextlib.contextmanager
def ready(model: nn.Module, image_sizes: ImageSizes) -> Iterator[None]:
    """While it is open, a model's own torchvision transform normalises what it is given and resizes nothing."""
    own = model._modules.get("transform")
    if not isinstance(own, GeneralizedRCNNTransform):
        yield
        return
    device = next((p.device for p in model.parameters()), None)
    model._modules["transform"] = Ready(Normalize(own.image_mean, own.image_std).to(device), image_sizes)
    try:
        yield
    finally:
        model._modules["transform"] = own


class TransformersConvention:
    """``model(pixel_values, pixel_mask, labels)`` gives ``loss`` and ``loss_dict``, and ``logits`` with ``pred_boxes``.

    Args:
        scores: ``sigmoid``, or ``softmax`` with the background last.
        statistics: Mean and standard deviation of the pixels; None leaves them in 0..1.
        top: Most detections per image.
    """

    total: str | None = "loss"
    """Name of the weighted sum."""

    def __init__(self, scores: str, statistics: tuple[Sequence[float], Sequence[float]] | None, top: int) -> None:
        self.scores, self.top = scores, top
        self.statistics = statistics

    def inputs(self, images: Tensor, image_sizes: ImageSizes) -> dict[str, Tensor]:
        """``pixel_values`` and ``pixel_mask``."""
        mask = torch.zeros((len(images), *images.shape[-2:]), dtype=torch.long, device=images.device)
        for row, (height, width) in zip(mask, image_sizes):
            row[:height, :width] = 1
        if self.statistics is not None:
            images = Normalize(*self.statistics).to(images.device)(images, image_sizes)["pixels"]
        return {"pixel_values": images, "pixel_mask": mask}

    def losses(
        self, model: nn.Module, images: Tensor, image_sizes: ImageSizes, boxes: list[Tensor], labels: list[Tensor]
    ) -> Mapping[str, Tensor]:
        """``loss_dict`` as the model weighs it, and the weighted ``loss``."""
        output: Any = model(**self.inputs(images, image_sizes), labels=to_labels(boxes, labels, image_sizes))
        return {**(output.loss_dict or {}), "loss": output.loss}

    def detections(self, model: nn.Module, images: Tensor, image_sizes: ImageSizes) -> Detections:
        """The best (query, class) pairs; boxes are scaled by each image's own size."""
        output: Any = model(**self.inputs(images, image_sizes))
        scores = output.logits.sigmoid() if self.scores == "sigmoid" else output.logits.softmax(-1)[..., :-1]
        count = min(self.top, scores[0].numel())
        best, places = scores.flatten(1).topk(count)
        boxes = to_corners(output.pred_boxes)
        found = []
        for own, score, place, (height, width) in zip(boxes, best, places, image_sizes):
            sides = own.new_tensor([width, height, width, height])
            found.append({"boxes": own[place // scores.shape[-1]] * sides, "scores": score, "labels": place % scores.shape[-1]})
        return found
