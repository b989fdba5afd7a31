"""SSD, built from torchvision's own parts (``torchvision.models.detection.ssd.SSD``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torchvision
from torch import Tensor
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, SSDHead, _vgg_extractor
from torchvision.ops import box_iou

from kdflow.detectors import dense_stages as dense
from kdflow.detectors.backbones import build_backbone, load_body, map_ports
from kdflow.detectors.cnn_options import CandidateOptions, Colour, PyramidOptions
from kdflow.detectors.dense_parts import DenseForm, dense_detector, head_outputs
from kdflow.detectors.expression import Expression
from kdflow.detectors.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from kdflow.detectors.ssd_stages import DefaultBoxes, Head, VggBody, VggNeck
from kdflow.detectors.torchvision_parts import (
    background_first,
    feature_stages,
    pyramid,
)
from kdflow.errors import UsageError
from kdflow.options import again, option
from kdflow.ports import DETECTORS, ClassRows, Detector, DetectorFamily, Port, Stage

NAME = "ssd"
LOSSES = ("bbox_regression", "classification")
LIBRARY = {"logits": "cls_logits", "deltas": "bbox_regression"}
PREPARE = {"logits": background_first}
VGG_SIZES = (300, 512)
VGG_MEAN, VGG_STD = (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)
STEPS = (8, 16, 32, 64, 100, 300)
SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)


class SsdOptions(PyramidOptions, CandidateOptions):
    """Defaults are torchvision's ``ssd300_vgg16``."""

    name = NAME
    backbone: str = option(
        "vgg16",
        "``vgg16`` for the paper's SSD300 and SSD512; a torchvision ResNet or ``timm:<name>`` puts SSD's head on a feature "
        "pyramid P3..P7.",
    )
    neck: int = option(256, "Channels of the pyramid; not used by vgg16.", gt=0)
    size: int = option(300, "Side of the square input that the default boxes are made for.", gt=0)
    iou: float = option(0.5, "IoU from which a default box answers for an object.", "iou_thresh", ge=0, le=1)
    positive: float = option(
        0.25,
        "Share of objects in the class loss; the hardest background boxes fill the rest.",
        "positive_fraction",
        gt=0,
        le=1,
    )
    score: float = again(CandidateOptions, "score", 0.01)
    nms: float = again(CandidateOptions, "nms", 0.45)
    detections: int = again(CandidateOptions, "detections", 200)
    candidates: int = option(400, "Most candidates per class before suppression.", "topk_candidates", gt=0)
    image_mean: Colour | None = option(None, "Mean colour that is subtracted; none: the backbone's usual one.")
    image_std: Colour | None = option(None, "Standard deviation that is divided by; none: the backbone's usual one.")


def match(model: Any, priors: list[Tensor], boxes: list[Tensor]) -> Tensor:
    """The library's matcher; images without objects have background only."""
    places = torch.cat(priors)
    nobody = torch.full((len(places),), -1, dtype=torch.int64, device=places.device)
    return torch.stack([model.proposal_matcher(box_iou(own, places)) if len(own) else nobody for own in boxes])


def joined(model: Any, outputs: dict[str, list[Tensor]], priors: list[Tensor], sizes: Any) -> list[dict[str, Tensor]]:
    """The library's post-processing, which takes all levels in one."""
    whole = {name: torch.cat(levels, dim=1) for name, levels in outputs.items()}
    return model.postprocess_detections(whole, [torch.cat(priors)] * len(sizes), sizes)


@dataclass(frozen=True)
class Maps:
    """What SSD's head reads.

    Attributes:
        backbone: Makes the maps.
        ports: Of backbone and neck.
        ratios: Aspect ratios per level, beside 1.
        boxes: Further settings of the default boxes.
    """

    backbone: Expression
    ports: tuple[Port, Port]
    ratios: list[list[int]]
    boxes: dict[str, Any] = field(default_factory=dict)


def vgg_maps(options: SsdOptions) -> Maps:
    """SSD300 or SSD512 of the paper; UsageError for other sizes."""
    if options.size not in VGG_SIZES:
        raise UsageError(
            f"{NAME}: the VGG16 variant is made for size 300 or 512, not {options.size}; other backbones take any size"
        )
    usual = 5 if options.pretrained_backbone is None else 4
    kept = usual if options.trainable_layers is None else options.trainable_layers
    vgg, high = Expression(torchvision.models.vgg16), options.size == 512
    if options.pretrained_backbone is not None:
        load_body(vgg.build(), "vgg16", options.pretrained_backbone)
    strides = (8, 16, 32, 64, 128, 256, 512) if high else STEPS
    widths = (512, 1024, 512, 256, 256, 256, 256)[: len(strides)]
    ratios = [[2], [2, 3], [2, 3], [2, 3], *([[2, 3]] if high else []), [2], [2]]
    settings: dict[str, Any] = {} if high else {"scales": list(SCALES), "steps": list(STEPS)}
    ports = Port("backbone", channels=(512, 1024), strides=(8, 16)), Port("neck", channels=widths, strides=strides)
    return Maps(Expression(_vgg_extractor, vgg, high, kept).called("backbone"), ports, ratios, settings)


def pyramid_maps(options: SsdOptions) -> Maps:
    """SSD's head on a feature pyramid, for backbones that the paper did not know."""
    spec = options.pyramid(3, "p6p7")
    backbone, channels = build_backbone(spec)
    backbone.build().out_channels = [spec.width] * len(spec.levels)
    return Maps(backbone, map_ports(spec, channels), [[2, 3]] * len(spec.levels))


def make(classes: tuple[str, ...], options: SsdOptions) -> Detector:
    """SSD300 and SSD512, or SSD's head on a pyramid."""
    vgg = options.backbone == "vgg16"
    maps = vgg_maps(options) if vgg else pyramid_maps(options)
    mean = options.image_mean or (VGG_MEAN if vgg else IMAGENET_MEAN)
    std = options.image_std or (VGG_STD if vgg else IMAGENET_STD)
    generator = Expression(DefaultBoxGenerator, maps.ratios, **maps.boxes).called("anchors")
    per_cell = generator.build().num_anchors_per_location()
    made = Expression(
        SSD,
        maps.backbone,
        generator,
        (options.size, options.size),
        len(classes) + 1,
        head=Expression(SSDHead, list(maps.ports[1].channels), per_cell, len(classes) + 1),
        image_mean=list(mean),
        image_std=list(std),
        **options.keywords(),
    )
    model = made.build()
    strides = maps.ports[1].strides
    outputs = head_outputs(strides, len(classes), {"deltas": (4, "deltas")}, "softmax")
    form = DenseForm(strides, len(classes), outputs)
    modules = (VggBody(model.backbone), VggNeck(model.backbone)) if vgg else pyramid(model)
    boxes = {"pixels": "normalize.pixels", "maps": "neck"}
    return dense_detector(
        NAME,
        classes,
        model,
        made.source("SSD of torchvision"),
        form,
        {
            **feature_stages(Normalize(mean, std), modules, maps.ports),
            "head.tail": Stage(Head(model.head), {"maps": "neck"}, outputs, dense=True),
        },
        priors=Stage(DefaultBoxes(model.anchor_generator), boxes, {"anchors": form.port("head.priors", form="xyxy")}),
        decode=dense.Decode(model.box_coder.decode_single),
        assign=dense.Assign(model, match),
        loss=dense.DenseLoss(model, LOSSES, SSD.compute_loss, LIBRARY, offset=1, prepare=PREPARE),
        detect=dense.DenseDetect(model, joined, LIBRARY, offset=1, prepare=PREPARE),
        class_rows={
            f"head.classification_head.module_list.{i}": ClassRows(groups=n, background=True)
            for i, n in enumerate(per_cell)
        },
        size_divisor=1 if vgg else 32,
        first_label=1,
    )


TINY = {"backbone": "resnet18", "neck": 16, "size": 96}
DETECTORS.add(
    NAME,
    DetectorFamily(
        make,
        SsdOptions,
        "dense",
        "torchvision",
        "BSD-3-Clause",
        "SSD300 and SSD512, or SSD's head on a pyramid",
        tiny=TINY,
        ragged=False,
    ),
)
