"""Faster R-CNN with a feature pyramid, built from torchvision's own parts (``torchvision.models.detection.FasterRCNN``)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead

from kdflow.detectors import rcnn_stages as rcnn
from kdflow.detectors.backbones import build_backbone, map_ports
from kdflow.detectors.cnn_options import AnchorOptions, DetectionOptions, Pair, PictureOptions, PyramidOptions
from kdflow.detectors.expression import Expression
from kdflow.detectors.normalize import Normalize
from kdflow.detectors.torchvision_parts import (
    TARGETS,
    Anchors,
    check_anchors,
    detection_port,
    feature_stages,
    pyramid,
    torchvision_detector,
)
from kdflow.kinds import ANY, ROWS
from kdflow.options import again, option
from kdflow.ports import CLASS_BOXES, CLASS_LABELS, CLASS_SCORES, DETECTORS, Detector, DetectorFamily, Port, Stage

NAME, FAMILY = "faster-rcnn", "two-stage"
SIZES = {"image_sizes": "image_sizes"}
RPN = {"logits": "rpn.logits", "deltas": "rpn.deltas"}
Counts = tuple[int, int]
BOUNDS = "IoU below which {0} is background, and from which it is an object."


class FasterRcnnOptions(PyramidOptions, AnchorOptions, DetectionOptions, PictureOptions):
    """Defaults are torchvision's ``fasterrcnn_resnet50_fpn``."""

    name = NAME
    neck_norm: Literal["none", "batch"] = option("none", "``batch`` puts BatchNorms into the pyramid, as in the library's v2.")
    rpn_convs: int = option(1, "3x3 convolutions of the RPN's head; 2 in the library's v2.", gt=0)
    box_convs: int = option(
        0, "3x3 convolutions with BatchNorm in the box head, before one layer instead of two; 4 in the library's v2.", ge=0
    )
    box_head: int = option(1024, "Width of the box head's two layers.", gt=0)
    rpn_pre_nms: Counts = option(
        (2000, 1000),
        "Proposals per level before suppression, in training and in evaluation.",
        ("rpn_pre_nms_top_n_train", "rpn_pre_nms_top_n_test"),
    )
    rpn_post_nms: Counts = option(
        (2000, 1000),
        "Proposals per image after suppression, in training and in evaluation.",
        ("rpn_post_nms_top_n_train", "rpn_post_nms_top_n_test"),
    )
    rpn_nms: float = option(
        0.7, "IoU above which a worse proposal of the same level is dropped.", "rpn_nms_thresh", ge=0, le=1
    )
    rpn_score: float = option(0.0, "Least objectness of a proposal.", "rpn_score_thresh", ge=0, le=1)
    rpn_iou: Pair = option((0.3, 0.7), BOUNDS.format("an anchor"), ("rpn_bg_iou_thresh", "rpn_fg_iou_thresh"))
    rpn_samples: int = option(256, "Anchors per image in the RPN's loss.", "rpn_batch_size_per_image", gt=0)
    rpn_positive: float = option(0.5, "Largest share of objects among them.", "rpn_positive_fraction", ge=0, le=1)
    roi_iou: Pair = option((0.5, 0.5), BOUNDS.format("a proposal"), ("box_bg_iou_thresh", "box_fg_iou_thresh"))
    roi_samples: int = option(512, "Proposals per image in the box head's losses.", "box_batch_size_per_image", gt=0)
    roi_positive: float = option(0.25, "Largest share of objects among them.", "box_positive_fraction", ge=0, le=1)
    score: float = again(DetectionOptions, "score", 0.05, "box_score_thresh")
    nms: float = again(DetectionOptions, "nms", 0.5, "box_nms_thresh")
    detections: int = again(DetectionOptions, "detections", 100, "box_detections_per_img")


def rpn_stages(rpn: Any, strides: tuple[int, ...]) -> dict[str, Stage]:
    """From the pyramid to proposals and the RPN's losses."""
    outputs = {
        "logits": Port("rpn.logits", channels=1, strides=strides, form="sigmoid"),
        "deltas": Port("rpn.deltas", channels=4, strides=strides, form="deltas"),
    }
    proposed = {"boxes": Port("rpn.proposals", form="xyxy"), "scores": Port("rpn.scores")}
    sampled = {
        "labels": Port("rpn.labels", strides=strides),
        "targets": Port("rpn.targets", channels=4, strides=strides),
        "samples": Port("rpn.samples", ANY, doc="sampled anchors as the library's loss takes them"),
    }
    return {
        "rpn.head": Stage(rcnn.RpnHead(rpn.head), {"maps": "neck"}, outputs, dense=True),
        "rpn.anchors": Stage(
            Anchors(rpn.anchor_generator),
            {"pixels": "normalize.pixels", "maps": "neck"},
            {"anchors": Port("rpn.anchors", strides=strides, form="xyxy")},
            sizes=("maps",),
        ),
        "rpn.proposals": Stage(rcnn.Proposals(rpn), {**RPN, "anchors": "rpn.anchors", **SIZES}, proposed),
        "rpn.sample": Stage(rcnn.RpnSample(rpn), {"anchors": "rpn.anchors", **TARGETS}, sampled, stochastic=True),
        "rpn.loss": Stage(loss := rcnn.RpnLoss(), {**RPN, "samples": "rpn.samples"}, loss.ports()),
    }


def roi_stages(heads: Any, names: tuple[str, ...], width: int, classes: int) -> dict[str, Stage]:
    """From proposals to the box head's losses, and to detections; ``width`` of the pyramid, whose levels have ``names``."""
    run, loss = rcnn.roi_head(heads.box_head), rcnn.RoiLoss(classes)
    hidden, node = heads.box_predictor.cls_score.in_features, "cnn/rpn-roi"
    sampled = {
        "boxes": Port("roi.boxes", form="xyxy"),
        "matched_boxes": Port("roi.matched_boxes", form="xyxy"),
        "labels": Port("roi.labels", classes=CLASS_LABELS),
        "positive": Port("roi.positive"),
        "negative": Port("roi.negative"),
        "targets": Port("roi.targets", ROWS, form="deltas", doc="(N, 4) deltas to the matched boxes"),
    }
    layers = {key: Port(f"roi.{key}", channels=hidden) for key in run.gives}
    predicted = {
        "logits": Port("roi.logits", channels=classes + 1, form="softmax", classes=CLASS_SCORES),
        "deltas": Port("roi.deltas", channels=4 * (classes + 1), form="deltas", classes=CLASS_BOXES),
    }
    doc = "(N, 4(K+1)) boxes of each class, background last"
    decoded = Port("roi.decoded", ROWS, node, 4 * (classes + 1), form="xyxy", classes=CLASS_BOXES, doc=doc)
    return {
        "roi.sample": Stage(
            rcnn.RoiSample(heads, classes), {"proposals": "rpn.proposals", **TARGETS}, sampled, stochastic=True
        ),
        "roi.pool": Stage(
            rcnn.RoiPool(heads.box_roi_pool, names),
            {"maps": "neck", "boxes": "roi.boxes", **SIZES},
            {"features": Port("roi.features", channels=width), "levels": Port("roi.levels")},
        ),
        "roi.head": Stage(run, {"features": "roi.features"}, layers, dense=True),
        "roi.predict": Stage(
            rcnn.RoiPredict(heads.box_predictor), {"embedding": "roi.embedding"}, predicted, dense=True
        ),
        "roi.decode": Stage(
            rcnn.RoiDecode(heads), {"deltas": "roi.deltas", "boxes": "roi.boxes"}, {"decoded": decoded}
        ),
        "roi.loss": Stage(loss, {**rcnn.ROI, "labels": "roi.labels", "targets": "roi.targets"}, loss.ports()),
        "detections": Stage(
            rcnn.RoiDetect(heads, names), {"maps": "neck", "proposals": "rpn.proposals", **SIZES}, detection_port()
        ),
    }


def _rpn_head(options: FasterRcnnOptions) -> dict[str, Expression]:
    """The RPN's head where it is not the library's default one."""
    if options.rpn_convs == 1:
        return {}
    anchors = len(options.anchor_sizes[0]) * len(options.anchor_ratios)
    return {"rpn_head": Expression(RPNHead, options.neck, anchors, options.rpn_convs)}


def _box_head(options: FasterRcnnOptions) -> Expression:
    if not options.box_convs:
        return Expression(TwoMLPHead, options.neck * 7**2, options.box_head)
    convs = [options.neck] * options.box_convs
    shape = (options.neck, 7, 7)
    return Expression(FastRCNNConvFCHead, shape, convs, [options.box_head], norm_layer=nn.BatchNorm2d)


def make(classes: tuple[str, ...], options: FasterRcnnOptions) -> Detector:
    """Faster R-CNN with per-class boxes."""
    spec = replace(options.pyramid(), neck_norm=options.neck_norm)
    check_anchors(NAME, options.anchor_sizes, spec)
    backbone, channels = build_backbone(spec)
    ratios = (options.anchor_ratios,) * len(options.anchor_sizes)
    made = Expression(
        FasterRCNN,
        backbone,
        rpn_anchor_generator=Expression(AnchorGenerator, options.anchor_sizes, ratios),
        **_rpn_head(options),
        box_head=_box_head(options),
        box_predictor=Expression(FastRCNNPredictor, options.box_head, len(classes) + 1),
        **options.keywords(),
    )
    model = made.build()
    ports = map_ports(spec, channels)
    return torchvision_detector(
        NAME,
        FAMILY,
        classes,
        model,
        {
            **feature_stages(Normalize(options.image_mean, options.image_std), pyramid(model), ports),
            **rpn_stages(model.rpn, ports[1].strides),
            **roi_stages(model.roi_heads, spec.names, options.neck, len(classes)),
        },
        rcnn.calls(),
        (*rcnn.RoiLoss.names, *rcnn.RpnLoss.names),
        made.source("Faster R-CNN of torchvision"),
        first_label=1,
        class_rows=rcnn.CLASS_ROWS,
    )


TINY = {
    "backbone": "resnet18",
    "neck": 16,
    "box_head": 24,
    "rpn_pre_nms": (60, 40),
    "rpn_post_nms": (50, 30),
    "rpn_samples": 32,
    "roi_samples": 16,
    "anchor_sizes": ((8,), (16,), (32,), (48,), (64,)),
    "min_size": 64,
    "max_size": 128,
    "score": 0.01,
}
DOC = "Faster R-CNN with a feature pyramid"
DETECTORS.add(NAME, DetectorFamily(make, FasterRcnnOptions, FAMILY, "torchvision", "BSD-3-Clause", DOC, tiny=TINY))
