"""What the torchvision detectors share: the detector object, inference on padded images, targets, cells, features."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import permute_and_flatten

from kdflow.detectors.backbones import BackboneSpec, Body, Neck
from kdflow.detectors.weights import load_by_name
from kdflow.errors import DataError, UsageError
from kdflow.kinds import ANY, BOXES, LABELS
from kdflow.ports import CLASS_DETECTIONS, CLASS_LABELS, Call, ClassRows, Detector, ImageSizes, Port, Stage
from kdflow.source import Source

TARGETS = {"boxes": "targets.checked_boxes", "labels": "targets.checked_labels"}
PIXELS = Call(
    {"pixels": "backbone:pixels"},
    {"maps": "backbone", "neck": "neck"},
    doc="backbone and pyramid on other normalised pixels, such as a smaller copy of the images",
)


def torchvision_detector(
    name: str,
    family: str,
    classes: tuple[str, ...],
    model: nn.Module,
    stages: Mapping[str, Stage],
    calls: Mapping[str, Call],
    losses: Sequence[str],
    code: Source,
    *,
    size_divisor: int = 32,
    first_label: int = 0,
    class_rows: Mapping[str, ClassRows] | None = None,
) -> Detector:
    """A torchvision model, or one that is called alike, as stages.

    Args:
        name: Registered name.
        family: ``two-stage`` or ``dense``.
        classes: Class names in label order.
        model: The model.
        stages: All stages; the one that normalises is called ``normalize``.
        calls: What a method may run again.
        losses: Names of the loss terms in the library's order.
        code: Python that makes the model.
        size_divisor: Canvas sides are multiples of it.
        first_label: The library's label of the first class (1 where its label 0 is the background).
        class_rows: Predictors with rows per class.
    """
    return Detector(
        name,
        family,
        "torchvision",
        classes,
        model,
        stages,
        calls,
        {loss: f"losses.{loss}" for loss in losses},
        size_divisor,
        class_rows=class_rows or {},
        inference=partial(predict, first_label=first_label),
        writer=partial(source_of, code=replace(code, detect={"first_label": first_label})),
        loader=load_by_name,
    )


def predict(detector: Detector, images: Tensor, image_sizes: ImageSizes, first_label: int) -> list[dict[str, Tensor]]:
    """Detections by the library's own forward pass; see :meth:`kdflow.ports.Detector.predict`."""
    ready: Any = copy.copy(detector.model)
    # A shallow copy with another transform: the images are resized and padded already, and boxes stay in their pixels.
    transform = Ready(detector.stages["normalize"].run, image_sizes)
    ready._modules = {**detector.model._modules, "transform": transform}
    with evaluating(detector.model), torch.no_grad():
        ready.training = False
        found: list[dict[str, Tensor]] = ready(list(images))
    return [{**one, "labels": one["labels"] - first_label} for one in found]


def source_of(detector: Detector, code: Source) -> Source:
    """Python that makes the model without kdflow; load the weights strictly."""
    frozen = [m for m in detector.model.modules() if type(m).__name__ == "FrozenBatchNorm2d"]
    # The library's first COCO weights were trained when its frozen norms had no epsilon.
    return code.then(*_WITHOUT_EPS) if any(getattr(m, "eps", None) == 0.0 for m in frozen) else code


_WITHOUT_EPS = (
    "for norm in model.modules():",
    '    if type(norm).__name__ == "FrozenBatchNorm2d":',
    "        norm.eps = 0.0",
)


class Ready(nn.Module):
    """Stands in for the library's transform where images come resized and padded."""

    def __init__(self, normalize: nn.Module, image_sizes: ImageSizes) -> None:
        super().__init__()
        self.normalize = normalize
        self.image_sizes = list(image_sizes)

    def forward(self, images: list[Tensor], targets: Any = None) -> tuple[ImageList, Any]:
        """Normalised images with their own sizes; targets as they are."""
        return image_list(self.normalize(torch.stack(images), self.image_sizes)["pixels"], self.image_sizes), targets

    def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
        """Boxes stay in pixels of the padded input."""
        del image_shapes, original_image_sizes
        return result


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module has the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class Held(nn.Module):
    """A stage that uses a library module's methods but none of its weights.

    The module is no submodule: the stage neither owns its parameters nor changes its mode, but sees both.
    """

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self._held = (owner,)

    @property
    def owner(self) -> Any:
        """The library's module."""
        return self._held[0]


class Targets(nn.Module):
    """Refuses ground-truth boxes without area, as the library's forward does, and hands the others on.

    They arrive here as ports, so that a call may replace them for all stages that follow.
    """

    def forward(self, boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Any]:
        """``boxes`` and ``labels`` unchanged; DataError names the first degenerate box."""
        empty = [(own[:, 2:] <= own[:, :2]).any(dim=1) for own in boxes]
        if torch.cat(empty).any():
            image = next(i for i, e in enumerate(empty) if e.any())
            box = [round(float(x), 3) for x in boxes[image][int(empty[image].nonzero()[0])]]
            raise DataError(
                f"image {image} of the batch has the ground-truth box {box} (x1, y1, x2, y2) without width or height; "
                'remove it from the annotations ("kdflow data check" lists all)'
            )
        return {"boxes": list(boxes), "labels": list(labels)}

    def infer(self, boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Any]:
        """The same boxes and labels."""
        return {"boxes": list(boxes), "labels": list(labels)}


class Anchors(nn.Module):
    """The library's anchors, which are those of every image of a batch."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, pixels: Tensor, maps: list[Tensor]) -> dict[str, Any]:
        """``anchors`` (H*W*A, 4) xyxy per level."""
        (anchors,) = self.generator(image_list(pixels, [(1, 1)]), list(maps))
        return {"anchors": list(anchors.split(self.counts(maps)))}

    def counts(self, maps: list[Tensor]) -> list[int]:
        """Anchors per level."""
        return [m.shape[-2] * m.shape[-1] * n for m, n in zip(maps, self.generator.num_anchors_per_location())]


def image_list(pixels: Tensor, image_sizes: Sequence[tuple[int, int]]) -> ImageList:
    """The library's pair of padded images and their own sizes."""
    return ImageList(pixels, [(int(h), int(w)) for h, w in image_sizes])


def library_targets(boxes: Sequence[Tensor], labels: Sequence[Tensor], offset: int = 0) -> list[dict[str, Tensor]]:
    """Targets as the library takes them; ``offset`` is added to the labels."""
    return [{"boxes": own, "labels": classes + offset} for own, classes in zip(boxes, labels)]


def empty_detections(like: Tensor, count: int, images: int) -> list[dict[str, Tensor]]:
    """Detections of the right shapes, with the device and type of ``like``."""
    return [
        {
            "boxes": like.new_empty(count, 4),
            "scores": like.new_empty(count),
            "labels": like.new_empty(count, dtype=torch.long),
        }
        for _ in range(images)
    ]


def cells(values: Tensor, size: int) -> Tensor:
    """(B, A * size, H, W) -> (B, H * W * A, size), order y, x, anchor."""
    count, _, height, width = values.shape
    return permute_and_flatten(values, count, -1, size, height, width)


def background_last(values: Tensor, block: int = 1) -> Tensor:
    """Moves the first ``block`` numbers of the last axis, the background's, to its end."""
    return torch.roll(values, -block, dims=-1)


def background_first(values: Tensor, block: int = 1) -> Tensor:
    """Undoes :func:`background_last`."""
    return torch.roll(values, block, dims=-1)


def pyramid(model: Any) -> tuple[nn.Module, nn.Module]:
    """Backbone and pyramid of a model, as stages."""
    return Body(model.backbone.body), Neck(model.backbone.fpn)


def feature_stages(normalize: nn.Module, modules: tuple[nn.Module, nn.Module], ports: tuple[Port, Port]) -> dict[str, Stage]:
    """Images and targets to the pyramid.

    Args:
        normalize: What images go through first.
        modules: Backbone and neck, as :func:`pyramid` gives them.
        ports: Their ports.
    """
    (body, neck), own = modules, "backbone.body" if isinstance(modules[0], Body) else ""
    pixels = Port("normalize.pixels", ANY, doc="normalised images")
    checked = {
        "boxes": Port("targets.checked_boxes", BOXES, form="xyxy", doc="ground-truth boxes"),
        "labels": Port("targets.checked_labels", LABELS, classes=CLASS_LABELS, doc="their classes"),
    }
    return {
        "normalize": Stage(normalize, {"images": "images", "image_sizes": "image_sizes"}, {"pixels": pixels}),
        "targets": Stage(Targets(), {"boxes": "targets.boxes", "labels": "targets.labels"}, checked),
        "backbone": Stage(body, {"pixels": "normalize.pixels"}, {"maps": ports[0]}, dense=True, library=own),
        "neck": Stage(neck, {"maps": "backbone"}, {"maps": ports[1]}, dense=True),
    }


def detection_port() -> dict[str, Port]:
    """What the last stage gives."""
    return {"detections": Port("detections", classes=CLASS_DETECTIONS)}


def check_anchors(name: str, sizes: Sequence[Sequence[float]], spec: BackboneSpec) -> None:
    """UsageError unless every pyramid level has the same number of anchor sizes."""
    if len(sizes) != len(spec.levels):
        raise UsageError(
            f"{name}: anchor_sizes lists sides for {len(sizes)} levels, the pyramid has {len(spec.levels)}"
        )
    if len({len(own) for own in sizes}) != 1:
        raise UsageError(f"{name}: the head is shared by all levels, so every level needs equally many anchor_sizes")


def check_groups(name: str, width: int) -> None:
    """UsageError unless towers of this width can have the libraries' GroupNorm, also on a level of a single cell."""
    if width % 32 or width < 64:
        raise UsageError(
            f"{name}: the towers' GroupNorm has 32 groups, so neck must be a multiple of 32 from 64 on, not {width}"
        )
