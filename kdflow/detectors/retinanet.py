"""RetinaNet, built from torchvision's own parts (``torchvision.models.detection.RetinaNet``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

from kdflow.detectors import dense_stages as dense
from kdflow.detectors.backbones import P6_FROM, BackboneSpec, Norm, backbone_source, build_backbone
from kdflow.detectors.bridge import family
from kdflow.detectors.dense_parts import (
    FAMILY,
    DenseForm,
    anchor_stage,
    assign_stages,
    dense_detector,
    head_stages,
    last_stages,
)
from kdflow.detectors.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from kdflow.detectors.options import typed_options
from kdflow.detectors.torchvision_parts import (
    cells,
    check_anchors,
    check_groups,
    feature_ports,
    feature_stages,
    pyramid,
    resize_settings,
)
from kdflow.ports import DETECTORS, ClassRows, Detector, Stage
from kdflow.source import Source, call_lines

NAME = "retinanet"
LOSSES = ("classification", "bbox_regression")
LIBRARY = {"logits": "cls_logits", "deltas": "bbox_regression"}
OCTAVES = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))


class Predict(nn.Module):
    """The two last convolutions, on one level."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.logits = head.classification_head.cls_logits
        self.deltas = head.regression_head.bbox_reg
        self.classes: int = head.classification_head.num_classes

    def forward(self, classes: Tensor, boxes: Tensor, level: int) -> dict[str, Tensor]:
        """``logits`` (B, H*W*A, K) and ``deltas`` (B, H*W*A, 4)."""
        del level
        return {"logits": cells(self.logits(classes), self.classes), "deltas": cells(self.deltas(boxes), 4)}


def match(model: Any, priors: list[Tensor], boxes: list[Tensor]) -> Tensor:
    """The library's own matching: its loss function, on a head that hands the indices back."""
    stand_in: Any = SimpleNamespace(proposal_matcher=model.proposal_matcher, head=dense.Capture())
    found: Any = RetinaNet.compute_loss(
        stand_in, [{"boxes": own} for own in boxes], {}, [torch.cat(priors)] * len(boxes)
    )
    return found


def stages(model: Any, normalize: Normalize, form: DenseForm) -> dict[str, Stage]:
    """All stages in the library's order."""
    head = model.head
    towers = dense.Towers(dense.Tower(head.classification_head.conv), dense.Tower(head.regression_head.conv))
    decode = dense.Decode(model.box_coder.decode_single)
    return {
        **feature_stages(normalize, *pyramid(model)),
        **head_stages(towers, Predict(head), form),
        **anchor_stage(model.anchor_generator),
        "head.decode": Stage(decode, {"deltas": "head.deltas", "priors": "head.priors"}, ("boxes",)),
        **assign_stages(dense.Assign(model, match), form.classes),
        **last_stages(
            dense.DenseLoss(head, LOSSES, dense.head_loss, LIBRARY),
            dense.DenseDetect(model, dense.per_level, LIBRARY),
            form,
        ),
    }


@typed_options(NAME)
def build_retinanet(
    classes: tuple[str, ...],
    *,
    backbone: str = "resnet50",
    pretrained_backbone: str | None = None,
    neck: int = 256,
    norm: Norm = "batch",
    trainable_layers: int | None = None,
    p6_from: Literal["p5", "c5"] = "p5",
    head_norm: Literal["none", "group"] = "none",
    box_loss: Literal["l1", "smooth_l1", "ciou", "diou", "giou"] = "l1",
    anchor_sizes: tuple[tuple[float, ...], ...] = OCTAVES,
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
    iou: tuple[float, float] = (0.4, 0.5),
    score: float = 0.05,
    nms: float = 0.5,
    detections: int = 300,
    candidates: int = 1000,
    image_mean: tuple[float, float, float] = IMAGENET_MEAN,
    image_std: tuple[float, float, float] = IMAGENET_STD,
    min_size: int = 800,
    max_size: int = 1333,
) -> Detector:
    """RetinaNet on P3..P7; defaults are torchvision's ``retinanet_resnet50_fpn``.

    Args:
        classes: Class names in label order.
        backbone: ``resnet18`` ... ``resnet152``, ``resnext...``, ``wide_resnet...`` of torchvision, or ``timm:<name>``.
        pretrained_backbone: State-dict file or weight name (``default``, ``IMAGENET1K_V2``) for the backbone alone.
        neck: Channels of the pyramid and the towers.
        norm: ``batch``, or ``frozen`` for BatchNorms that are constants (for pretrained backbones).
        trainable_layers: Backbone stages that train, counted from the last; none: 3 with pretrained weights, else 5 (all).
        p6_from: What P6 is computed from; ``c5`` in the library's v2.
        head_norm: ``group`` puts GroupNorm with 32 groups into the towers, as in the library's v2.
        box_loss: The library's box losses; v2 takes ``giou``.
        anchor_sizes: Sides in pixels, per level; as many on every level.
        anchor_ratios: Height / width.
        iou: IoU below which an anchor is background, and from which it is an object.
        score: Least score of a detection.
        nms: IoU above which a worse detection of the same class is dropped.
        detections: Most detections per image.
        candidates: Most candidates per level before suppression.
        image_mean: Mean colour that is subtracted.
        image_std: Standard deviation that is divided by.
        min_size: Shorter side in the library's own resize; used by the exported model only.
        max_size: Longest side in it.
    """
    spec = BackboneSpec(backbone, neck, norm, 3, P6_FROM[p6_from], pretrained_backbone, trainable_layers)
    check_anchors(NAME, anchor_sizes, spec)
    if head_norm == "group":
        check_groups(NAME, neck)
    settings: dict[str, Any] = {
        **resize_settings(min_size, max_size, image_mean, image_std),
        "score_thresh": score,
        "nms_thresh": nms,
        "detections_per_img": detections,
        "bg_iou_thresh": iou[0],
        "fg_iou_thresh": iou[1],
        "topk_candidates": candidates,
    }
    shape = (neck, len(anchor_sizes[0]) * len(anchor_ratios), len(classes))
    ratios = (anchor_ratios,) * len(anchor_sizes)
    model, channels, code = build_model(spec, shape, (anchor_sizes, ratios), head_norm == "group", box_loss, settings)
    form = DenseForm(tuple(2**level for level in spec.levels), neck, len(classes), ("deltas",), blocks=4)
    normalize = Normalize(image_mean, image_std)
    return dense_detector(
        NAME,
        classes,
        model,
        form,
        LOSSES,
        features=feature_ports(spec, channels, FAMILY),
        stages=stages(model, normalize, form),
        normalize=normalize,
        code=code,
        class_rows={"head.classification_head.cls_logits": ClassRows(groups=shape[1])},
    )


def build_model(
    spec: BackboneSpec,
    shape: tuple[int, int, int],
    anchors: tuple[Any, Any],
    group: bool,
    box_loss: str,
    settings: Mapping[str, Any],
) -> tuple[RetinaNet, tuple[int, ...], Source]:
    """The model, channels of its backbone, and Python that builds it without kdflow.

    Args:
        spec: The pyramid.
        shape: Width, anchors per cell and classes of the head.
        anchors: Sides and ratios per level.
        group: GroupNorm in the towers.
        box_loss: The library's box loss.
        settings: Further keywords of the model.
    """
    body, channels = build_backbone(spec)
    head = RetinaNetHead(*shape, norm_layer=partial(nn.GroupNorm, 32) if group else None)
    head.regression_head._loss_type = box_loss
    model = RetinaNet(body, shape[-1], anchor_generator=AnchorGenerator(*anchors), head=head, **settings)
    lines = [
        f"head = RetinaNetHead(*{shape}, norm_layer={'partial(nn.GroupNorm, 32)' if group else None})",
        f'head.regression_head._loss_type = "{box_loss}"',
        *call_lines(
            f"model = RetinaNet(backbone, {shape[-1]}, anchor_generator=AnchorGenerator(*{anchors}), head=head,", settings
        ),
    ]
    return model, channels, source(spec, channels, lines)


def source(spec: BackboneSpec, channels: Sequence[int], lines: Sequence[str]) -> Source:
    """Python that builds the model without kdflow."""
    imports = [
        "from functools import partial",
        "from torch import nn",
        "from torchvision.models.detection import RetinaNet",
        "from torchvision.models.detection.anchor_utils import AnchorGenerator",
        "from torchvision.models.detection.retinanet import RetinaNetHead",
    ]
    return backbone_source("RetinaNet of torchvision", spec, channels).then(*lines, imports=imports)


DETECTORS.add(NAME, family(build_retinanet, FAMILY, "torchvision", "BSD-3-Clause", "RetinaNet on P3..P7"))
