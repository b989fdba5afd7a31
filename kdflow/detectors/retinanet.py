"""RetinaNet, built from torchvision's own parts (``torchvision.models.detection.RetinaNet``)."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection._utils import _box_loss
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import sigmoid_focal_loss

from kdflow.detectors import dense_stages as dense
from kdflow.detectors.backbones import P6_FROM, build_backbone, map_ports
from kdflow.detectors.box_matching import QuietMatcher, Weighed, rows_of
from kdflow.detectors.cnn_options import AnchorOptions, CandidateOptions, Pair, PictureOptions, PyramidOptions
from kdflow.detectors.dense_parts import DenseForm, anchors_of, dense_detector, head_outputs, head_stages
from kdflow.detectors.expression import Expression
from kdflow.detectors.normalize import Normalize
from kdflow.detectors.torchvision_parts import cells, check_anchors, check_groups, feature_stages, pyramid
from kdflow.options import again, option
from kdflow.ports import DETECTORS, ClassRows, Detector, DetectorFamily

NAME = "retinanet"
LOSSES = ("classification", "bbox_regression")
LIBRARY = {"logits": "cls_logits", "deltas": "bbox_regression"}
OCTAVES = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))


class RetinaNetOptions(PyramidOptions, AnchorOptions, CandidateOptions, PictureOptions):
    """Defaults are torchvision's ``retinanet_resnet50_fpn``."""

    name = NAME
    p6_from: Literal["p5", "c5"] = option("p5", "What P6 is computed from; ``c5`` in the library's v2.")
    head_norm: Literal["none", "group"] = option(
        "none", "``group`` puts GroupNorm with 32 groups into the towers, as in the library's v2."
    )
    box_loss: Literal["l1", "smooth_l1", "ciou", "diou", "giou"] = option(
        "l1", "The library's box losses; v2 takes ``giou``."
    )
    anchor_sizes: tuple[tuple[float, ...], ...] = again(AnchorOptions, "anchor_sizes", OCTAVES)
    iou: Pair = option(
        (0.4, 0.5),
        "IoU below which an anchor is background, and from which it is an object.",
        ("bg_iou_thresh", "fg_iou_thresh"),
    )
    detections: int = again(CandidateOptions, "detections", 300)


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
    stand_in: Any = SimpleNamespace(proposal_matcher=QuietMatcher(model.proposal_matcher), head=dense.Capture())
    found: Any = RetinaNet.compute_loss(
        stand_in, [{"boxes": own} for own in boxes], {}, [torch.cat(priors)] * len(boxes)
    )
    return found


def losses(
    head: Any, targets: list[dict[str, Tensor]], outputs: dict[str, Tensor], priors: list[Tensor], indices: list[Tensor]
) -> dict[str, Tensor]:
    """The library's two losses, image by image as there, with the places of all images found together.

    Args:
        head: The library's head.
        targets: Its targets.
        outputs: Its outputs over all levels.
        priors: Anchors (R, 4) per image.
        indices: (R,) object of each anchor per image, -1 background, -2 not trained on.
    """
    between, count, size = head.classification_head.BETWEEN_THRESHOLDS, len(targets), outputs["cls_logits"].shape[1]
    found = rows_of([*(own >= 0 for own in indices), *(own != between for own in indices)])
    coder, kinds, boxes = Weighed(head.regression_head.box_coder), [], []
    for image, (objects, trained) in enumerate(zip(found[:count], found[count:])):
        logits, matched = outputs["cls_logits"][image], indices[image][objects]
        wanted = torch.zeros_like(logits)
        wanted[objects, targets[image]["labels"][matched]] = 1.0
        whole = len(trained) == size
        ours, goal = (logits, wanted) if whole else (logits[trained], wanted[trained])
        kinds.append(sigmoid_focal_loss(ours, goal, reduction="sum") / (indices[image] >= 0).sum().clamp(min=1))
        kind, goal = head.regression_head._loss_type, targets[image]["boxes"][matched]
        predicted, places = outputs["bbox_regression"][image][objects], priors[image][objects]
        boxes.append(_box_loss(kind, coder, places, goal, predicted) / max(1, len(objects)))
    return {"classification": sum(kinds[1:], kinds[0]) / count, "bbox_regression": sum(boxes[1:], boxes[0]) / count}


def make(classes: tuple[str, ...], options: RetinaNetOptions) -> Detector:
    """RetinaNet on P3..P7."""
    spec = options.pyramid(3, P6_FROM[options.p6_from])
    check_anchors(NAME, options.anchor_sizes, spec)
    if options.head_norm == "group":
        check_groups(NAME, options.neck)
    backbone, channels = build_backbone(spec)
    per_cell, ratios = len(options.anchor_sizes[0]) * len(options.anchor_ratios), options.anchor_ratios
    norm = Expression(partial, nn.GroupNorm, 32) if options.head_norm == "group" else None
    made = Expression(
        RetinaNet,
        backbone,
        len(classes),
        anchor_generator=Expression(AnchorGenerator, options.anchor_sizes, (ratios,) * len(options.anchor_sizes)),
        head=Expression(RetinaNetHead, options.neck, per_cell, len(classes), norm_layer=norm),
        **options.keywords(),
    )
    model = made.build()
    model.head.regression_head._loss_type = options.box_loss
    code = made.source("RetinaNet of torchvision").then(f"model.head.regression_head._loss_type = {options.box_loss!r}")
    strides = tuple(2**level for level in spec.levels)
    outputs = head_outputs(strides, len(classes), {"deltas": (4, "deltas")})
    form = DenseForm(strides, len(classes), outputs, options.neck, blocks=4)
    head, features = model.head, (pyramid(model), map_ports(spec, channels))
    towers = dense.library_towers(head)
    return dense_detector(
        NAME,
        classes,
        model,
        code,
        form,
        {
            **feature_stages(Normalize(options.image_mean, options.image_std), *features),
            **head_stages(towers, Predict(head), form),
        },
        priors=anchors_of(model.anchor_generator, form),
        decode=dense.Decode(model.box_coder.decode_single),
        assign=dense.Assign(model, match),
        loss=dense.DenseLoss(head, LOSSES, losses, LIBRARY),
        detect=dense.DenseDetect(model, dense.per_level, LIBRARY),
        class_rows={"head.classification_head.cls_logits": ClassRows(groups=per_cell)},
    )


TINY = {
    "backbone": "resnet18",
    "neck": 16,
    "anchor_sizes": ((8, 10), (16, 20), (32, 40), (64, 80), (96, 120)),
    "score": 0.001,
    "min_size": 64,
    "max_size": 128,
}
DETECTORS.add(
    NAME,
    DetectorFamily(
        make, RetinaNetOptions, "dense", "torchvision", "BSD-3-Clause", "RetinaNet on P3..P7", tiny=TINY
    ),
)
