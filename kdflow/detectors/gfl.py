"""GFL and ATSS: dense detectors on torchvision's backbones and pyramid that no library offers ready-made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from kdflow.detectors import dense_stages as dense
from kdflow.detectors import gfl_model
from kdflow.detectors import point_stages as point
from kdflow.detectors.backbones import BackboneSpec, Norm, backbone_source, build_backbone
from kdflow.detectors.bridge import family
from kdflow.detectors.dense_parts import (
    FAMILY,
    SIZES,
    DenseForm,
    assign_stages,
    dense_detector,
    head_stages,
    last_stages,
)
from kdflow.detectors.gfl_model import ATSSHead, GFLHead, PointDetector, PointHead
from kdflow.detectors.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from kdflow.detectors.options import typed_options
from kdflow.detectors.torchvision_parts import (
    feature_ports,
    feature_stages,
    pyramid,
)
from kdflow.errors import UsageError
from kdflow.ports import DETECTORS, ClassRows, Detector, Stage
from kdflow.source import Source, call_lines


@dataclass(frozen=True)
class PointSettings:
    """What GFL and ATSS are built from, beside head and losses.

    Attributes:
        spec: Backbone and pyramid.
        topk: Candidates per level and object in the assignment.
        divisor: An image's own padded sides are the next multiples of this.
        inference: Settings of the model's inference and its own resize.
    """

    spec: BackboneSpec
    topk: int
    divisor: int
    inference: dict[str, Any]


def stages(
    model: PointDetector, normalize: Normalize, form: DenseForm, settings: PointSettings, loss: point.PointLoss
) -> dict[str, Stage]:
    """All stages, in the order in which the losses need them."""
    head = model.head
    output = "distribution" if "distribution" in form.outputs else "deltas"
    towers = dense.Towers(dense.Tower(head.cls_convs), dense.Tower(head.reg_convs))
    assign = point.PointAssign(head.strides, settings.topk, settings.divisor)
    detect = dense.DenseDetect(model, _detect, {name: name for name in ("logits", *form.outputs)})
    return {
        **feature_stages(normalize, *pyramid(model)),
        **head_stages(towers, point.PointPredict(head), form),
        "head.priors": Stage(point.PointPriors(head), {"maps": "neck"}, ("anchors",)),
        "head.decode": Stage(
            point.PointDecode(head, output), {"values": f"head.{output}", "priors": "head.priors"}, ("boxes",)
        ),
        **assign_stages(assign, form.classes, {"maps": "neck", **SIZES}),
        **last_stages(loss, detect, form),
    }


def _detect(model: Any, outputs: Any, priors: Any, sizes: Any) -> Any:
    return model.postprocess_detections(outputs, priors, sizes)


def assemble(
    name: str,
    classes: tuple[str, ...],
    head: PointHead,
    made: str,
    settings: PointSettings,
    loss: point.PointLoss,
    form: DenseForm,
    classifier: str,
) -> Detector:
    """The detector around a head; ``made`` is the Python that makes the head."""
    body, channels = build_backbone(settings.spec)
    xavier(body)
    model = PointDetector(body, head, **settings.inference)
    normalize = Normalize(settings.inference["image_mean"], settings.inference["image_std"])
    return dense_detector(
        name,
        classes,
        model,
        form,
        loss.names,
        features=feature_ports(settings.spec, channels, FAMILY),
        stages=stages(model, normalize, form, settings, loss),
        normalize=normalize,
        code=source(name, settings, channels, made),
        class_rows={f"head.{classifier}": ClassRows()},
    )


def xavier(backbone: Any) -> None:
    """The pyramid's convolutions start as in mmdetection's FPN."""
    for layer in backbone.fpn.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)


def source(name: str, settings: PointSettings, channels: Sequence[int], made: str) -> Source:
    """Python that builds the model without kdflow; it carries the model's own file along."""
    found = backbone_source(f"{name.upper()} on torchvision", settings.spec, channels).carrying(gfl_model)
    return found.then(*call_lines(f"model = PointDetector(backbone, {made},", settings.inference))


def point_settings(
    name: str,
    backbone: str,
    pretrained_backbone: str | None,
    neck: int,
    norm: Norm,
    trainable_layers: int | None,
    groups: int,
    tower_blocks: int,
    topk: int,
    divisor: int,
    inference: dict[str, Any],
) -> PointSettings:
    """Checked settings; UsageError where the towers cannot be built."""
    if neck % groups or neck // groups < 2:
        raise UsageError(
            f"{name}: {groups} groups of at least 2 channels do not divide a neck of {neck}; set neck or groups"
        )
    if tower_blocks < 1 or topk < 1:
        raise UsageError(f"{name}: tower_blocks and topk must be at least 1")
    spec = BackboneSpec(backbone, neck, norm, 3, "p6p7_linear", pretrained_backbone, trainable_layers)
    return PointSettings(spec, topk, divisor, inference)


def _inference(
    score: float,
    nms: float,
    detections: int,
    candidates: int,
    mean: Sequence[float],
    std: Sequence[float],
    shorter: int,
    longer: int,
) -> dict[str, Any]:
    return {
        "score": score,
        "nms": nms,
        "detections": detections,
        "candidates": candidates,
        "min_size": shorter,
        "max_size": longer,
        "image_mean": list(mean),
        "image_std": list(std),
    }


@typed_options("gfl")
def build_gfl(
    classes: tuple[str, ...],
    *,
    backbone: str = "resnet50",
    pretrained_backbone: str | None = None,
    neck: int = 256,
    norm: Norm = "batch",
    trainable_layers: int | None = None,
    groups: int = 32,
    tower_blocks: int = 4,
    bins: int = 16,
    prior_side: float = 8.0,
    topk: int = 9,
    pad_divisor: int = 32,
    cls_loss: Literal["qfl", "vfl"] = "qfl",
    box_weight: Literal["score", "iou"] = "score",
    beta: float = 2.0,
    alpha: float = 0.75,
    gamma: float = 2.0,
    loss_weights: tuple[float, float, float] = (1.0, 2.0, 0.25),
    score: float = 0.05,
    nms: float = 0.6,
    detections: int = 100,
    candidates: int = 1000,
    image_mean: tuple[float, float, float] = IMAGENET_MEAN,
    image_std: tuple[float, float, float] = IMAGENET_STD,
    min_size: int = 800,
    max_size: int = 1333,
) -> Detector:
    """GFL on P3..P7; defaults are mmdetection's ``gfl_r50_fpn``.

    Args:
        classes: Class names in label order.
        backbone: ``resnet18`` ... ``resnet152``, ``resnext...``, ``wide_resnet...`` of torchvision, or ``timm:<name>``.
        pretrained_backbone: State-dict file or weight name (``default``, ``IMAGENET1K_V2``) for the backbone alone.
        neck: Channels of the pyramid and the towers.
        norm: ``batch``, or ``frozen`` for BatchNorms that are constants (for pretrained backbones).
        trainable_layers: Backbone stages that train, counted from the last; none: 3 with pretrained weights, else 5 (all).
        groups: Groups of the towers' GroupNorm.
        tower_blocks: Blocks per tower.
        bins: The last bin n of an edge's distribution, in strides.
        prior_side: Side of the prior in strides; only the assignment reads it.
        topk: Candidates per level and object in the assignment.
        pad_divisor: Cells beyond an image's size rounded up to this are not trained on.
        cls_loss: ``qfl``, or ``vfl`` for the varifocal loss.
        box_weight: Weight of a positive in the box losses: its best class ``score``, or its ``iou``.
        beta: Exponent of the quality focal loss.
        alpha: Weight of negatives in the varifocal loss.
        gamma: Exponent of their probability in it.
        loss_weights: Factors of the class, GIoU and distribution focal losses.
        score: Least score of a detection.
        nms: IoU above which a worse detection of the same class is dropped.
        detections: Most detections per image.
        candidates: Most candidates per level before suppression.
        image_mean: Mean colour that is subtracted.
        image_std: Standard deviation that is divided by.
        min_size: Shorter side in the exported model's own resize; not used by kdflow.
        max_size: Longest side in it.
    """
    inference = _inference(score, nms, detections, candidates, image_mean, image_std, min_size, max_size)
    settings = point_settings(
        "gfl",
        backbone,
        pretrained_backbone,
        neck,
        norm,
        trainable_layers,
        groups,
        tower_blocks,
        topk,
        pad_divisor,
        inference,
    )
    if bins < 1:
        raise UsageError(f"gfl: bins must be at least 1, not {bins}")
    shape = (neck, len(classes), tuple(2**level for level in settings.spec.levels), tower_blocks, groups, prior_side)
    head = GFLHead(*shape, bins=bins)
    weights = dict(zip(("loss_cls", "loss_bbox", "loss_dfl"), loss_weights))
    loss = point.GflLoss(head, weights, cls_loss, box_weight, beta, alpha, gamma)
    form = DenseForm(head.strides, neck, len(classes), ("distribution",), tower_blocks, bins=bins + 1)
    return assemble("gfl", classes, head, f"GFLHead(*{shape}, bins={bins})", settings, loss, form, "gfl_cls")


@typed_options("atss")
def build_atss(
    classes: tuple[str, ...],
    *,
    backbone: str = "resnet50",
    pretrained_backbone: str | None = None,
    neck: int = 256,
    norm: Norm = "batch",
    trainable_layers: int | None = None,
    groups: int = 32,
    tower_blocks: int = 4,
    prior_side: float = 8.0,
    topk: int = 9,
    pad_divisor: int = 32,
    loss_weights: tuple[float, float, float] = (1.0, 2.0, 1.0),
    score: float = 0.05,
    nms: float = 0.6,
    detections: int = 100,
    candidates: int = 1000,
    image_mean: tuple[float, float, float] = IMAGENET_MEAN,
    image_std: tuple[float, float, float] = IMAGENET_STD,
    min_size: int = 800,
    max_size: int = 1333,
) -> Detector:
    """ATSS on P3..P7 with one square anchor per cell; defaults are mmdetection's ``atss_r50_fpn``.

    Args:
        classes: Class names in label order.
        backbone: ``resnet18`` ... ``resnet152``, ``resnext...``, ``wide_resnet...`` of torchvision, or ``timm:<name>``.
        pretrained_backbone: State-dict file or weight name (``default``, ``IMAGENET1K_V2``) for the backbone alone.
        neck: Channels of the pyramid and the towers.
        norm: ``batch``, or ``frozen`` for BatchNorms that are constants (for pretrained backbones).
        trainable_layers: Backbone stages that train, counted from the last; none: 3 with pretrained weights, else 5 (all).
        groups: Groups of the towers' GroupNorm.
        tower_blocks: Blocks per tower.
        prior_side: Side of the anchor in strides.
        topk: Candidates per level and object in the assignment.
        pad_divisor: Cells beyond an image's size rounded up to this are not trained on.
        loss_weights: Factors of the focal, GIoU and centerness losses.
        score: Least score of a detection.
        nms: IoU above which a worse detection of the same class is dropped.
        detections: Most detections per image.
        candidates: Most candidates per level before suppression.
        image_mean: Mean colour that is subtracted.
        image_std: Standard deviation that is divided by.
        min_size: Shorter side in the exported model's own resize; not used by kdflow.
        max_size: Longest side in it.
    """
    inference = _inference(score, nms, detections, candidates, image_mean, image_std, min_size, max_size)
    settings = point_settings(
        "atss",
        backbone,
        pretrained_backbone,
        neck,
        norm,
        trainable_layers,
        groups,
        tower_blocks,
        topk,
        pad_divisor,
        inference,
    )
    shape = (neck, len(classes), tuple(2**level for level in settings.spec.levels), tower_blocks, groups, prior_side)
    head = ATSSHead(*shape)
    loss = point.AtssLoss(head, dict(zip(("loss_cls", "loss_bbox", "loss_centerness"), loss_weights)))
    form = DenseForm(head.strides, neck, len(classes), ("deltas", "centerness"), tower_blocks)
    return assemble("atss", classes, head, f"ATSSHead(*{shape})", settings, loss, form, "atss_cls")


DETECTORS.add(
    "gfl",
    family(
        build_gfl,
        FAMILY,
        "torchvision",
        "BSD-3-Clause",
        "GFL (or its varifocal variant) on P3..P7; losses are kdflow's own",
    ),
)
DETECTORS.add(
    "atss",
    family(
        build_atss,
        FAMILY,
        "torchvision",
        "BSD-3-Clause",
        "ATSS on P3..P7, one anchor per cell; losses are kdflow's own",
    ),
)
