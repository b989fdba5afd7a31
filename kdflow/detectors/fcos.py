"""FCOS, built from torchvision's own parts (``torchvision.models.detection.FCOS``)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead

from kdflow.detectors import dense_stages as dense
from kdflow.detectors.backbones import P6_FROM, build_backbone, map_ports
from kdflow.detectors.cnn_options import CandidateOptions, PictureOptions, PyramidOptions
from kdflow.detectors.dense_parts import DenseForm, anchors_of, dense_detector, head_outputs, head_stages
from kdflow.detectors.expression import Expression
from kdflow.detectors.fcos_loss import losses
from kdflow.detectors.normalize import Normalize
from kdflow.detectors.pyramids import BranchedPyramid
from kdflow.detectors.torchvision_parts import cells, check_groups, feature_stages, pyramid
from kdflow.errors import UsageError
from kdflow.kinds import PYRAMID
from kdflow.options import again, option
from kdflow.ports import DETECTORS, ClassRows, Detector, DetectorFamily, Stage

NAME = "fcos"
LOSSES = ("classification", "bbox_regression", "bbox_ctrness")
LIBRARY = {"logits": "cls_logits", "deltas": "bbox_regression", "centerness": "bbox_ctrness"}
PREPARE = {"centerness": lambda values: values[..., None]}
WHOLE_STRIDES = 128
"""Canvas sides that every stride of the pyramid divides."""


class FcosOptions(PyramidOptions, CandidateOptions, PictureOptions):
    """Defaults are torchvision's ``fcos_resnet50_fpn``."""

    name = NAME
    neck: int = option(256, "Channels of pyramid and towers, a multiple of 32 from 64 on (the library's GroupNorm).", gt=0)
    first_level: Literal[2, 3] = option(3, "2 adds P2 (stride 4) to pyramid and head.")
    head_from: Literal[2, 3] | None = option(
        None,
        "3 with ``first_level: 2`` keeps P2 from the head, which is then as usual on P3..P7; methods find P2 in ``neck``, and "
        "what the head reads in ``head.maps``. None: the head reads all levels.",
    )
    p6_from: Literal["p5", "c5"] = option("p5", "What P6 is computed from.")
    tower_blocks: int = option(4, "Blocks per tower.", gt=0)
    radius: float = option(
        1.5, "Cells around an object's centre that may be positive, in strides.", "center_sampling_radius", gt=0
    )
    score: float = again(CandidateOptions, "score", 0.2)
    nms: float = again(CandidateOptions, "nms", 0.6)


class ReadLevels(nn.Module):
    """Stage: the levels that the head reads, where the pyramid has more."""

    def __init__(self, levels: nn.Module) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``maps``: pyramid levels, finest first."""
        return {"maps": self.levels(maps)}


class Predict(nn.Module):
    """The three last convolutions, on one level."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.logits = head.classification_head.cls_logits
        self.distances = head.regression_head.bbox_reg
        self.centerness = head.regression_head.bbox_ctrness
        self.classes: int = head.classification_head.num_classes

    def forward(self, classes: Tensor, boxes: Tensor, level: int) -> dict[str, Tensor]:
        """``logits`` (B, H*W, K), ``deltas`` (B, H*W, 4) distances in units of the prior's side, ``centerness`` (B, H*W)."""
        del level
        distances = functional.relu(self.distances(boxes))
        return {
            "logits": cells(self.logits(classes), self.classes),
            "deltas": cells(distances, 4),
            "centerness": cells(self.centerness(boxes), 1).squeeze(-1),
        }


def match(model: Any, priors: list[Tensor], boxes: list[Tensor]) -> Tensor:
    """The library's own matching: its loss function, on a head that hands the indices back."""
    stand_in: Any = SimpleNamespace(center_sampling_radius=model.center_sampling_radius, head=dense.Capture())
    targets, places = [{"boxes": own} for own in boxes], [torch.cat(priors)] * len(boxes)
    found: Any = FCOS.compute_loss(stand_in, targets, {}, places, [len(p) for p in priors])
    return found


def spare_levels(options: FcosOptions) -> int:
    """Pyramid levels that the head does not read; UsageError where the options contradict each other."""
    spare = 0 if options.head_from is None else options.head_from - options.first_level
    if spare < 0:
        raise UsageError(
            f"{NAME}: the head cannot read P{options.head_from} where the pyramid begins with P{options.first_level}"
        )
    return spare


def read_stage(model: Any, form: DenseForm) -> dict[str, Stage]:
    """What the head reads, where it is not the whole pyramid."""
    if form.maps == "neck":
        return {}
    doc = "pyramid levels that the head reads, finest first"
    maps = form.port(form.maps, kind=PYRAMID, node="cnn/neck", channels=form.width, doc=doc)
    return {form.maps: Stage(ReadLevels(model.backbone.levels), {"maps": "neck"}, {"maps": maps}, library="backbone.levels")}


def make(classes: tuple[str, ...], options: FcosOptions) -> Detector:
    """FCOS on P3..P7, or P2..P7."""
    check_groups(NAME, options.neck)
    spare = spare_levels(options)
    spec = options.pyramid(options.first_level, P6_FROM[options.p6_from])
    backbone, channels = build_backbone(spec)
    if spare:
        backbone = Expression(BranchedPyramid, backbone, spare).called("branched")
    strides = tuple(2**level for level in spec.levels[spare:])
    made = Expression(
        FCOS,
        backbone,
        len(classes),
        anchor_generator=Expression(AnchorGenerator, tuple((s,) for s in strides), ((1.0,),) * len(strides)),
        head=Expression(FCOSHead, options.neck, 1, len(classes), options.tower_blocks),
        **options.keywords(),
        **({"size_divisible": WHOLE_STRIDES} if spare else {}),
    )
    model = made.build()
    outputs = head_outputs(strides, len(classes), {"deltas": (4, "distances"), "centerness": (0, "")})
    maps = "head.maps" if spare else "neck"
    form = DenseForm(strides, len(classes), outputs, options.neck, options.tower_blocks, maps)
    head, features = model.head, (pyramid(model), map_ports(spec, channels))
    towers = dense.library_towers(head)
    return dense_detector(
        NAME,
        classes,
        model,
        made.source("FCOS of torchvision"),
        form,
        {
            **feature_stages(Normalize(options.image_mean, options.image_std), *features),
            **read_stage(model, form),
            **head_stages(towers, Predict(head), form),
        },
        priors=anchors_of(model.anchor_generator, form),
        decode=dense.Decode(model.box_coder.decode),
        assign=dense.Assign(model, match),
        loss=dense.DenseLoss(head, LOSSES, losses, LIBRARY, prepare=PREPARE),
        detect=dense.DenseDetect(model, dense.per_level, LIBRARY, prepare=PREPARE),
        class_rows={"head.classification_head.cls_logits": ClassRows()},
        size_divisor=WHOLE_STRIDES if spare else 32,
    )


TINY = {"backbone": "resnet18", "neck": 64, "score": 0.001, "min_size": 64, "max_size": 128}
DETECTORS.add(
    NAME,
    DetectorFamily(make, FcosOptions, "dense", "torchvision", "BSD-3-Clause", "FCOS on P3..P7, or P2..P7", tiny=TINY),
)
