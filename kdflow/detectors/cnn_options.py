"""Options that CNN detectors share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, PositiveInt

from kdflow.detectors.backbones import BackboneSpec, Extra, Norm
from kdflow.detectors.normalize import IMAGENET_MEAN, IMAGENET_STD
from kdflow.options import Options, option


def _four(value: tuple[int, ...]) -> tuple[int, ...]:
    if len(value) not in (0, 4):
        raise ValueError("give one number for each of the four stages")
    return value


PerStage = Annotated[tuple[PositiveInt, ...], AfterValidator(_four)]
"""A number for each of a ResNet's four stages, or none at all."""
Colour = tuple[float, float, float]
Pair = tuple[float, float]


class PyramidOptions(Options):
    """A backbone with a feature pyramid."""

    backbone: str = option(
        "resnet50",
        "``resnet18`` ... ``resnet152``, ``resnext...``, ``wide_resnet...`` of torchvision, or ``timm:<name>``; in Faster R-CNN "
        "``mobilenet_v3_large`` and the like, as in the library.",
    )
    pretrained_backbone: str | None = option(
        None, "State-dict file or weight name (``default``, ``IMAGENET1K_V2``) for the backbone alone."
    )
    depths: PerStage = option((), "Blocks of a ResNet's four stages instead of the usual ones.")
    inner_width: int | None = option(
        None,
        "Channels inside the bottleneck blocks of a ResNet's first stage, doubled from stage to stage, 64 in ResNet-50; what the "
        "blocks hand on keeps its width.",
        ge=8,
    )
    neck: int = option(256, "Channels of the pyramid and of the towers on it.", gt=0)
    norm: Norm = option(
        "batch", "``batch``, or ``frozen`` for BatchNorms that are constants (for pretrained backbones)."
    )
    trainable_layers: int | None = option(
        None,
        "Backbone stages that train, counted from the last; none: 3 with pretrained weights, else 5 (all).",
        ge=0,
        le=5,
    )

    def pyramid(self, first: int = 2, extra: Extra = "pool") -> BackboneSpec:
        """What the pyramid is built from; see :class:`BackboneSpec` for the arguments."""
        return BackboneSpec(
            self.backbone, self.neck, self.norm, first, extra, self.pretrained_backbone, self.trainable_layers,
            depths=self.depths, inner_width=self.inner_width,
        )


class DetectionOptions(Options):
    """Which boxes become detections."""

    score: float = option(0.05, "Least score of a detection.", "score_thresh", ge=0, le=1)
    nms: float = option(
        0.5, "IoU above which a worse detection of the same class is dropped.", "nms_thresh", ge=0, le=1
    )
    detections: int = option(100, "Most detections per image.", "detections_per_img", gt=0)


class CandidateOptions(DetectionOptions):
    """The same for heads whose boxes are many."""

    candidates: int = option(1000, "Most candidates per level before suppression.", "topk_candidates", gt=0)


class ColourOptions(Options):
    """What pixels are divided and shifted by."""

    image_mean: Colour = option(IMAGENET_MEAN, "Mean colour that is subtracted.", "image_mean")
    image_std: Colour = option(IMAGENET_STD, "Standard deviation that is divided by.", "image_std")


class PictureOptions(ColourOptions):
    """The library's own way with pictures."""

    min_size: int = option(
        800,
        "Shorter side in the library's own resize; runs and exported students resize as the bench says.",
        "min_size",
        gt=0,
    )
    max_size: int = option(1333, "Longest side in it.", "max_size", gt=0)


class AnchorOptions(Options):
    """Anchors of all levels."""

    anchor_sizes: tuple[tuple[float, ...], ...] = option(
        ((32,), (64,), (128,), (256,), (512,)), "Sides in pixels, per level; as many on every level.", min_length=1
    )
    anchor_ratios: tuple[float, ...] = option((0.5, 1.0, 2.0), "Height / width.", min_length=1)
