"""What GFL and ATSS share: options, and the detector around their model, which no library offers ready-made."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from kdflow.detectors import dense_stages as dense
from kdflow.detectors import point_stages as point
from kdflow.detectors.backbones import build_backbone, map_ports
from kdflow.detectors.cnn_options import CandidateOptions, PictureOptions, PyramidOptions
from kdflow.detectors.dense_parts import SIZES, DenseForm, dense_detector, head_outputs, head_stages, priors_of
from kdflow.detectors.expression import Expression
from kdflow.detectors.gfl_model import PointDetector, square_priors
from kdflow.detectors.normalize import Normalize
from kdflow.detectors.torchvision_parts import feature_stages, pyramid
from kdflow.errors import UsageError
from kdflow.options import again, option
from kdflow.ports import ClassRows, Detector

LICENCE = "BSD-3-Clause"
TINY = {
    "backbone": "resnet18",
    "neck": 16,
    "groups": 4,
    "tower_blocks": 2,
    "score": 0.001,
    "min_size": 64,
    "max_size": 128,
}


class PointOptions(PyramidOptions, CandidateOptions, PictureOptions):
    """A head with one square prior per cell."""

    groups: int = option(32, "Groups of the towers' GroupNorm.", gt=0)
    tower_blocks: int = option(4, "Blocks per tower.", gt=0)
    prior_side: float = option(8.0, "Side of the prior in strides.", gt=0)
    topk: int = option(9, "Candidates per level and object in the assignment.", gt=0)
    pad_divisor: int = option(32, "Cells beyond an image's size rounded up to this are not trained on.", gt=0)
    nms: float = again(CandidateOptions, "nms", 0.6)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell, per level: P3 to P7."""
        return (8, 16, 32, 64, 128)

    def head_shape(self, classes: int) -> tuple[Any, ...]:
        """Arguments of :class:`kdflow.detectors.gfl_model.PointHead`; UsageError where the towers cannot be built."""
        if self.neck % self.groups or self.neck // self.groups < 2:
            raise UsageError(
                f"{self.title()}: {self.groups} groups of at least 2 channels do not divide a neck of {self.neck}; "
                "set neck or groups"
            )
        return (self.neck, classes, self.strides, self.tower_blocks, self.groups, self.prior_side)


def point_detector(
    classes: tuple[str, ...],
    options: PointOptions,
    head: Expression,
    loss: point.PointLoss,
    classifier: str,
    outputs: dict[str, tuple[int, str]],
) -> Detector:
    """The detector around a head.

    Args:
        classes: Class names in label order.
        options: Its options.
        head: Makes the head; already built, since its weights are drawn first.
        loss: Its losses.
        classifier: Name of the layer with a row per class.
        outputs: What the head predicts beside class scores; see :func:`head_outputs`.
    """
    spec = options.pyramid(3, "p6p7_linear")
    backbone, channels = build_backbone(spec)
    xavier(backbone.build())
    made = Expression(PointDetector, backbone, head=head, **options.keywords())
    model = made.build()
    form = DenseForm(
        options.strides,
        len(classes),
        head_outputs(options.strides, len(classes), outputs),
        options.neck,
        options.tower_blocks,
    )
    towers = dense.Towers(dense.Tower(model.head.cls_convs), dense.Tower(model.head.reg_convs))
    return dense_detector(
        options.title(),
        classes,
        model,
        made.source(f"{options.title().upper()} on torchvision"),
        form,
        {
            **feature_stages(
                Normalize(options.image_mean, options.image_std), pyramid(model), map_ports(spec, channels)
            ),
            **head_stages(towers, dense.HeadPredict(model.head), form),
        },
        priors=priors_of(partial(square_priors, side=options.prior_side), form),
        decode=point.PointDecode(model.head, "distribution" if "distribution" in outputs else "deltas"),
        assign=point.PointAssign(options.strides, options.topk, options.pad_divisor),
        loss=loss,
        detect=dense.DenseDetect(model, detections, {name: name for name in form.outputs}),
        assign_reads={"maps": "neck", **SIZES},
        class_rows={f"head.{classifier}": ClassRows()},
    )


def detections(model: Any, outputs: Any, priors: Any, sizes: Any) -> Any:
    """The model's own post-processing."""
    return model.postprocess_detections(outputs, priors, sizes)


def xavier(backbone: Any) -> None:
    """The pyramid's convolutions start as in mmdetection's FPN."""
    for layer in backbone.fpn.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
