"""Faster R-CNN with a feature pyramid, built from torchvision's own parts (``torchvision.models.detection.FasterRCNN``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from kdflow.detectors import rcnn_stages as rcnn
from kdflow.detectors.backbones import BackboneSpec, Norm, backbone_source, build_backbone
from kdflow.detectors.bridge import family
from kdflow.detectors.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from kdflow.detectors.options import typed_options
from kdflow.detectors.torchvision_parts import (
    PIXELS,
    TARGETS,
    Anchors,
    TorchvisionDetector,
    check_anchors,
    feature_ports,
    feature_stages,
    inner,
    loss_ports,
    port,
    pyramid,
    resize_settings,
)
from kdflow.kinds import ANY, ROWS
from kdflow.ports import DETECTORS, Call, ClassRows, Detector, Stage
from kdflow.source import Source, call_lines

NAME, FAMILY = "faster-rcnn", "two-stage"
RPN = {"logits": "rpn.logits", "deltas": "rpn.deltas"}
ROI_LOSSES, RPN_LOSSES = ("loss_classifier", "loss_box_reg"), ("loss_objectness", "loss_rpn_box_reg")


def rpn_stages(rpn: Any) -> dict[str, Stage]:
    """From the pyramid to proposals and the RPN's losses."""
    proposals, sample, loss = rcnn.Proposals(rpn), rcnn.RpnSample(rpn), rcnn.RpnLoss()
    return {
        "rpn.head": Stage(rcnn.RpnHead(rpn.head), {"maps": "neck"}, ("logits", "deltas"), dense=True),
        "rpn.anchors": Stage(
            Anchors(rpn.anchor_generator), {"pixels": "normalize.pixels", "maps": "neck"}, ("anchors",)
        ),
        "rpn.proposals": Stage(
            proposals,
            {**RPN, "anchors": "rpn.anchors", "image_sizes": "image_sizes"},
            ("boxes", "scores"),
        ),
        "rpn.sample": Stage(
            sample, {"anchors": "rpn.anchors", **TARGETS}, ("labels", "samples"), stochastic=True
        ),
        "rpn.loss": Stage(loss, {**RPN, "samples": "rpn.samples"}, RPN_LOSSES),
    }


def roi_stages(heads: Any, names: tuple[str, ...], classes: int) -> dict[str, Stage]:
    """From proposals to the box head's losses, and to detections."""
    sample, pool, loss = rcnn.RoiSample(heads, classes), rcnn.RoiPool(heads.box_roi_pool, names), rcnn.RoiLoss(classes)
    detect, sizes = rcnn.RoiDetect(heads, names), {"image_sizes": "image_sizes"}
    sampled = ("boxes", "matched_boxes", "labels", "positive", "negative", "targets")
    outputs = {"logits": "roi.logits", "deltas": "roi.deltas"}
    return {
        "roi.sample": Stage(
            sample, {"proposals": "rpn.proposals", **TARGETS}, sampled, stochastic=True
        ),
        "roi.pool": Stage(
            pool, {"maps": "neck", "boxes": "roi.boxes", **sizes}, ("features", "levels")
        ),
        "roi.head": Stage(
            rcnn.RoiHead(heads.box_head), {"features": "roi.features"}, ("fc1", "fc2", "embedding"), dense=True
        ),
        "roi.predict": Stage(
            rcnn.RoiPredict(heads.box_predictor), {"embedding": "roi.embedding"}, ("logits", "deltas"), dense=True
        ),
        "roi.decode": Stage(rcnn.RoiDecode(heads), {"deltas": "roi.deltas", "boxes": "roi.boxes"}, ("decoded",)),
        "roi.loss": Stage(
            loss, {**outputs, "labels": "roi.labels", "targets": "roi.targets"}, ROI_LOSSES
        ),
        "detections": Stage(
            detect, {"maps": "neck", "proposals": "rpn.proposals", **sizes}, ("detections",)
        ),
    }


def rpn_ports(strides: Sequence[int]) -> dict[str, Any]:
    """Ports of :func:`rpn_stages`."""
    levels = {"strides": tuple(strides), "length": len(strides)}
    return {
        "rpn.logits": port(
            "rpn.logits", FAMILY, "rpn.head", "logits", channels=(1,) * len(strides), form="sigmoid", **levels
        ),
        "rpn.deltas": port(
            "rpn.deltas", FAMILY, "rpn.head", "deltas", channels=(4,) * len(strides), form="deltas", **levels
        ),
        "rpn.anchors": port("rpn.anchors", FAMILY, "rpn.anchors", "anchors", form="xyxy", **levels),
        "rpn.proposals": port("rpn.proposals", FAMILY, "rpn.proposals", "boxes", form="xyxy"),
        "rpn.scores": port("rpn.scores", FAMILY, "rpn.proposals", "scores"),
        "rpn.labels": port("rpn.labels", FAMILY, "rpn.sample", "labels", **levels),
        "rpn.samples": inner("rpn.sample", "samples", "sampled anchors as the library's loss takes them", ANY),
        **loss_ports("rpn.loss", RPN_LOSSES),
    }


def roi_ports(width: int, hidden: int, classes: int) -> dict[str, Any]:
    """Ports of :func:`roi_stages`; ``width`` of the pyramid, ``hidden`` of the box head."""
    node = "cnn/rpn-roi"
    outputs = {"roi.logits": ("logits", classes + 1, "softmax"), "roi.deltas": ("deltas", 4 * (classes + 1), "deltas")}
    layers = {f"roi.{key}": f"(N, D) layer {key[-1]} of the box head before its ReLU" for key in ("fc1", "fc2")}
    return {
        **{
            f"roi.{key}": port(f"roi.{key}", FAMILY, "roi.sample", key, form="xyxy")
            for key in ("boxes", "matched_boxes")
        },
        **{f"roi.{key}": port(f"roi.{key}", FAMILY, "roi.sample", key) for key in ("labels", "positive", "negative")},
        "roi.targets": inner("roi.sample", "targets", "(N, 4) deltas to the matched boxes", ROWS, form="deltas"),
        "roi.features": port("roi.features", FAMILY, "roi.pool", "features", channels=(width,)),
        "roi.levels": port("roi.levels", FAMILY, "roi.pool", "levels"),
        **{name: inner("roi.head", name[4:], doc, ROWS, node=node, channels=(hidden,)) for name, doc in layers.items()},
        "roi.embedding": port("roi.embedding", FAMILY, "roi.head", "embedding", channels=(hidden,)),
        **{n: port(n, FAMILY, "roi.predict", key, channels=(c,), form=form) for n, (key, c, form) in outputs.items()},
        "roi.decoded": inner(
            "roi.decode",
            "decoded",
            "(N, 4(K+1)) boxes of each class, background last",
            ROWS,
            node=node,
            channels=(4 * (classes + 1),),
            form="xyxy",
        ),
        **loss_ports("roi.loss", ROI_LOSSES),
        "detections": port("detections", FAMILY, "detections", "detections"),
    }


def calls() -> dict[str, Call]:
    """What a method may run again."""
    regions = ("features", "levels", "fc1", "fc2", "embedding", "logits", "deltas", "decoded")
    sampled = ("boxes", "labels", "positive", "negative", "matched_boxes", "targets")
    proposed = ("logits", "deltas", "anchors", "proposals", "scores")
    return {
        "backbone": PIXELS,
        "rpn": Call({"features": "neck"}, {n: f"rpn.{n}" for n in proposed}, doc="region proposals on other maps"),
        "roi": Call(
            {"features": "roi.pool:maps", "boxes": "roi.boxes"},
            {n: f"roi.{n}" for n in regions},
            doc="box head on other maps or other boxes",
        ),
        "roi.head": Call(
            {"features": "roi.features"},
            {n: f"roi.{n}" for n in ("fc1", "fc2", "embedding", "logits", "deltas")},
            doc="box head on pooled blocks",
        ),
        "roi.sample": Call(
            {"proposals": "rpn.proposals", "boxes": "roi.sample:boxes", "labels": "roi.sample:labels"},
            {n: f"roi.{n}" for n in sampled},
            doc="sampling of other proposals, or for other ground truth",
        ),
        "roi.decode": Call(
            {"deltas": "roi.deltas", "boxes": "roi.boxes"}, {"boxes": "roi.decoded"}, doc="boxes that deltas stand for"
        ),
        "roi.loss": Call(
            {"logits": "roi.logits", "deltas": "roi.deltas", "labels": "roi.labels", "targets": "roi.targets"},
            {n: f"losses.{n}" for n in ROI_LOSSES},
            doc="losses of the box head on other predictions or labels",
        ),
    }


def wrap(
    model: FasterRCNN, classes: tuple[str, ...], spec: BackboneSpec, channels: Sequence[int], code: Source
) -> Detector:
    """The detector around a Faster R-CNN with a pyramid, a two-layer box head and per-class boxes."""
    heads: Any = model.roi_heads
    normalize = Normalize(model.transform.image_mean, model.transform.image_std)
    stages = {
        **feature_stages(normalize, *pyramid(model)),
        **rpn_stages(model.rpn),
        **roi_stages(heads, spec.names, len(classes)),
    }
    ports = {
        **feature_ports(spec, channels, FAMILY),
        **rpn_ports([2**level for level in spec.levels]),
        **roi_ports(spec.width, heads.box_head.fc7.out_features, len(classes)),
    }
    return TorchvisionDetector(
        NAME,
        FAMILY,
        classes,
        model,
        ports,
        stages,
        calls(),
        {n: f"losses.{n}" for n in (*ROI_LOSSES, *RPN_LOSSES)},
        size_divisor=32,
        normalize=normalize,
        label_offset=1,
        code=code,
        class_rows={
            "roi_heads.box_predictor.cls_score": ClassRows(background=True),
            "roi_heads.box_predictor.bbox_pred": ClassRows(block=4, background=True),
        },
    )


@typed_options(NAME)
def build_faster_rcnn(
    classes: tuple[str, ...],
    *,
    backbone: str = "resnet50",
    pretrained_backbone: str | None = None,
    neck: int = 256,
    box_head: int = 1024,
    norm: Norm = "batch",
    trainable_layers: int | None = None,
    anchor_sizes: tuple[tuple[float, ...], ...] = ((32,), (64,), (128,), (256,), (512,)),
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
    rpn_pre_nms: tuple[int, int] = (2000, 1000),
    rpn_post_nms: tuple[int, int] = (2000, 1000),
    rpn_nms: float = 0.7,
    rpn_score: float = 0.0,
    rpn_iou: tuple[float, float] = (0.3, 0.7),
    rpn_samples: int = 256,
    rpn_positive: float = 0.5,
    roi_iou: tuple[float, float] = (0.5, 0.5),
    roi_samples: int = 512,
    roi_positive: float = 0.25,
    score: float = 0.05,
    nms: float = 0.5,
    detections: int = 100,
    image_mean: tuple[float, float, float] = IMAGENET_MEAN,
    image_std: tuple[float, float, float] = IMAGENET_STD,
    min_size: int = 800,
    max_size: int = 1333,
) -> Detector:
    """Faster R-CNN on a feature pyramid; defaults are torchvision's.

    Args:
        classes: Class names in label order.
        backbone: ``resnet18`` ... ``resnet152``, ``resnext...``, ``wide_resnet...`` of torchvision, or ``timm:<name>``.
        pretrained_backbone: State-dict file or weight name (``default``, ``IMAGENET1K_V2``) for the backbone alone.
        neck: Channels of the pyramid.
        box_head: Width of the box head's two layers.
        norm: ``batch``, or ``frozen`` for BatchNorms that are constants (for pretrained backbones).
        trainable_layers: Backbone stages that train, counted from the last; none: 3 with pretrained weights, else 5 (all).
        anchor_sizes: Sides in pixels, per level.
        anchor_ratios: Height / width.
        rpn_pre_nms: Proposals per level before suppression, in training and in evaluation.
        rpn_post_nms: Proposals per image after suppression, in training and in evaluation.
        rpn_nms: IoU above which a worse proposal of the same level is dropped.
        rpn_score: Least objectness of a proposal.
        rpn_iou: IoU below which an anchor is background, and from which it is an object.
        rpn_samples: Anchors per image in the RPN's loss.
        rpn_positive: Largest share of objects among them.
        roi_iou: The same two bounds for proposals.
        roi_samples: Proposals per image in the box head's losses.
        roi_positive: Largest share of objects among them.
        score: Least score of a detection.
        nms: IoU above which a worse detection of the same class is dropped.
        detections: Most detections per image.
        image_mean: Mean colour that is subtracted.
        image_std: Standard deviation that is divided by.
        min_size: Shorter side in the library's own resize; used by the exported model only.
        max_size: Longest side in it.
    """
    spec = BackboneSpec(backbone, neck, norm, pretrained=pretrained_backbone, trainable=trainable_layers)
    check_anchors(NAME, anchor_sizes, spec)
    settings: dict[str, Any] = {
        **resize_settings(min_size, max_size, image_mean, image_std),
        **proposal_counts(rpn_pre_nms, rpn_post_nms),
        "rpn_nms_thresh": rpn_nms,
        "rpn_score_thresh": rpn_score,
        "rpn_bg_iou_thresh": rpn_iou[0],
        "rpn_fg_iou_thresh": rpn_iou[1],
        "rpn_batch_size_per_image": rpn_samples,
        "rpn_positive_fraction": rpn_positive,
        "box_bg_iou_thresh": roi_iou[0],
        "box_fg_iou_thresh": roi_iou[1],
        "box_batch_size_per_image": roi_samples,
        "box_positive_fraction": roi_positive,
        "box_score_thresh": score,
        "box_nms_thresh": nms,
        "box_detections_per_img": detections,
    }
    body, channels = build_backbone(spec)
    ratios = (anchor_ratios,) * len(anchor_sizes)
    model = FasterRCNN(
        body,
        rpn_anchor_generator=AnchorGenerator(anchor_sizes, ratios),
        box_head=TwoMLPHead(neck * 7**2, box_head),
        box_predictor=FastRCNNPredictor(box_head, len(classes) + 1),
        **settings,
    )
    return wrap(model, classes, spec, channels, source(spec, channels, anchor_sizes, ratios, box_head, len(classes), settings))


def proposal_counts(before: tuple[int, int], after: tuple[int, int]) -> dict[str, int]:
    """The library's keywords for how many proposals go into suppression and come out, in training and in evaluation."""
    names = [f"rpn_{place}_nms_top_n_{mode}" for place in ("pre", "post") for mode in ("train", "test")]
    return dict(zip(names, (*before, *after), strict=True))


def source(
    spec: BackboneSpec,
    channels: Sequence[int],
    sizes: Any,
    ratios: Any,
    hidden: int,
    classes: int,
    settings: dict[str, Any],
) -> Source:
    """Python that builds the model without kdflow."""
    imports = [
        "from torchvision.models.detection import FasterRCNN",
        "from torchvision.models.detection.anchor_utils import AnchorGenerator",
        "from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead",
    ]
    lines = [
        f"anchors = AnchorGenerator({sizes}, {ratios})",
        f"box_head = TwoMLPHead({spec.width * 7**2}, {hidden})",
        f"box_predictor = FastRCNNPredictor({hidden}, {classes + 1})",
        *call_lines(
            "model = FasterRCNN(backbone, rpn_anchor_generator=anchors, box_head=box_head, box_predictor=box_predictor,",
            settings,
        ),
    ]
    return backbone_source("Faster R-CNN of torchvision", spec, channels).then(*lines, imports=imports)


DETECTORS.add(
    NAME,
    family(build_faster_rcnn, FAMILY, "torchvision", "BSD-3-Clause", "Faster R-CNN with a feature pyramid"),
)
