"""FCOS, built from torchvision's own parts (``torchvision.models.detection.FCOS``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead

from kdflow.detectors import dense_stages as dense
from kdflow.detectors import pyramids
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
from kdflow.detectors.pyramids import BranchedPyramid
from kdflow.detectors.torchvision_parts import (
    cells,
    check_groups,
    feature_ports,
    feature_stages,
    inner,
    pyramid,
    resize_settings,
)
from kdflow.errors import UsageError
from kdflow.kinds import PYRAMID
from kdflow.ports import DETECTORS, ClassRows, Detector, Stage
from kdflow.source import Source, call_lines

NAME = "fcos"
LOSSES = ("classification", "bbox_regression", "bbox_ctrness")
LIBRARY = {"logits": "cls_logits", "deltas": "bbox_regression", "centerness": "bbox_ctrness"}
PREPARE = {"centerness": lambda values: values[..., None]}
WHOLE_STRIDES = 128
"""Canvas sides that every stride of the pyramid divides."""


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


def stages(model: Any, normalize: Normalize, form: DenseForm) -> dict[str, Stage]:
    """All stages in the library's order."""
    head = model.head
    read = {}
    if form.maps != "neck":
        levels = ReadLevels(model.backbone.levels)
        read = {form.maps: Stage(levels, {"maps": "neck"}, ("maps",), library="backbone.levels")}
    towers = dense.Towers(dense.Tower(head.classification_head.conv), dense.Tower(head.regression_head.conv))
    decode = dense.Decode(model.box_coder.decode)
    loss = dense.DenseLoss(head, LOSSES, dense.head_loss, LIBRARY, prepare=PREPARE)
    detect = dense.DenseDetect(model, dense.per_level, LIBRARY, prepare=PREPARE)
    return {
        **feature_stages(normalize, *pyramid(model)),
        **read,
        **head_stages(towers, Predict(head), form),
        **anchor_stage(model.anchor_generator, form.maps),
        "head.decode": Stage(decode, {"deltas": "head.deltas", "priors": "head.priors"}, ("boxes",)),
        **assign_stages(dense.Assign(model, match), form.classes),
        **last_stages(loss, detect, form),
    }


@typed_options(NAME)
def build_fcos(
    classes: tuple[str, ...],
    *,
    backbone: str = "resnet50",
    pretrained_backbone: str | None = None,
    neck: int = 256,
    norm: Norm = "batch",
    trainable_layers: int | None = None,
    first_level: Literal[2, 3] = 3,
    head_from: Literal[2, 3] | None = None,
    p6_from: Literal["p5", "c5"] = "p5",
    tower_blocks: int = 4,
    radius: float = 1.5,
    score: float = 0.2,
    nms: float = 0.6,
    detections: int = 100,
    candidates: int = 1000,
    image_mean: tuple[float, float, float] = IMAGENET_MEAN,
    image_std: tuple[float, float, float] = IMAGENET_STD,
    min_size: int = 800,
    max_size: int = 1333,
) -> Detector:
    """FCOS on P3..P7; defaults are torchvision's ``fcos_resnet50_fpn``.

    Args:
        classes: Class names in label order.
        backbone: ``resnet18`` ... ``resnet152``, ``resnext...``, ``wide_resnet...`` of torchvision, or ``timm:<name>``.
        pretrained_backbone: State-dict file or weight name (``default``, ``IMAGENET1K_V2``) for the backbone alone.
        neck: Channels of the pyramid and the towers, a multiple of 32 from 64 on (the library's GroupNorm).
        norm: ``batch``, or ``frozen`` for BatchNorms that are constants (for pretrained backbones).
        trainable_layers: Backbone stages that train, counted from the last; none: 3 with pretrained weights, else 5 (all).
        first_level: 2 adds P2 (stride 4) to pyramid and head.
        head_from: 3 with ``first_level: 2`` keeps P2 from the head, which is then as usual on P3..P7; methods find P2 in
            ``neck``, and what the head reads in ``head.maps``. None: the head reads all levels.
        p6_from: What P6 is computed from.
        tower_blocks: Blocks per tower.
        radius: Cells around an object's centre that may be positive, in strides.
        score: Least score of a detection.
        nms: IoU above which a worse detection of the same class is dropped.
        detections: Most detections per image.
        candidates: Most candidates per level before suppression.
        image_mean: Mean colour that is subtracted.
        image_std: Standard deviation that is divided by.
        min_size: Shorter side in the library's own resize; used by the exported model only.
        max_size: Longest side in it.
    """
    check_groups(NAME, neck)
    spare = spare_levels(first_level, head_from, tower_blocks)
    spec = BackboneSpec(backbone, neck, norm, first_level, P6_FROM[p6_from], pretrained_backbone, trainable_layers)
    settings: dict[str, Any] = {
        **resize_settings(min_size, max_size, image_mean, image_std),
        "center_sampling_radius": radius,
        "score_thresh": score,
        "nms_thresh": nms,
        "detections_per_img": detections,
        "topk_candidates": candidates,
        **({"size_divisible": WHOLE_STRIDES} if spare else {}),
    }
    model, channels, code = build_model(spec, spare, len(classes), tower_blocks, settings)
    outputs, maps = ("deltas", "centerness"), "head.maps" if spare else "neck"
    strides = head_strides(spec, spare)
    form = DenseForm(strides, neck, len(classes), outputs, tower_blocks, deltas="distances", maps=maps)
    normalize = Normalize(image_mean, image_std)
    return dense_detector(
        NAME,
        classes,
        model,
        form,
        LOSSES,
        features={**feature_ports(spec, channels, FAMILY), **read_ports(form)},
        stages=stages(model, normalize, form),
        size_divisor=WHOLE_STRIDES if spare else 32,
        normalize=normalize,
        code=code,
        class_rows={"head.classification_head.cls_logits": ClassRows()},
    )


def spare_levels(first: int, head_from: int | None, blocks: int) -> int:
    """Pyramid levels that the head does not read; UsageError where the options contradict each other."""
    if blocks < 1:
        raise UsageError(f"{NAME}: tower_blocks must be at least 1, not {blocks}")
    spare = 0 if head_from is None else head_from - first
    if spare < 0:
        raise UsageError(f"{NAME}: the head cannot read P{head_from} where the pyramid begins with P{first}")
    return spare


def head_strides(spec: BackboneSpec, spare: int) -> tuple[int, ...]:
    """Strides of the levels that the head reads."""
    return tuple(2**level for level in spec.levels[spare:])


def build_model(
    spec: BackboneSpec, spare: int, classes: int, blocks: int, settings: Mapping[str, Any]
) -> tuple[FCOS, tuple[int, ...], Source]:
    """The model, channels of its backbone, and Python that builds it without kdflow."""
    strides = head_strides(spec, spare)
    sizes, ratios = tuple((s,) for s in strides), ((1.0,),) * len(strides)
    body, channels = build_backbone(spec)
    if spare:
        body = BranchedPyramid(body, spare)
    head = FCOSHead(spec.width, 1, classes, blocks)
    model = FCOS(body, classes, anchor_generator=AnchorGenerator(sizes, ratios), head=head, **settings)
    opening = (
        f"model = FCOS(backbone, {classes}, anchor_generator=AnchorGenerator({sizes}, {ratios}),\n"
        f"    head=FCOSHead({spec.width}, 1, {classes}, {blocks}),"
    )
    return model, channels, source(spec, channels, call_lines(opening, settings), spare)


def read_ports(form: DenseForm) -> dict[str, Any]:
    """What the head reads, where it is not the whole pyramid."""
    if form.maps == "neck":
        return {}
    count = len(form.strides)
    details: dict[str, Any] = {"channels": (form.width,) * count, "strides": form.strides, "length": count}
    doc = "pyramid levels that the head reads, finest first"
    return {form.maps: inner(form.maps, "maps", doc, PYRAMID, node="cnn/neck", **details)}


def source(spec: BackboneSpec, channels: Sequence[int], lines: Sequence[str], spare: int = 0) -> Source:
    """Python that builds the model without kdflow; ``spare`` levels of the pyramid are not read by the head."""
    found = backbone_source("FCOS of torchvision", spec, channels)
    if spare:
        found = found.carrying(pyramids).then(f"backbone = BranchedPyramid(backbone, {spare})")
    imports = [
        "from torchvision.models.detection import FCOS",
        "from torchvision.models.detection.anchor_utils import AnchorGenerator",
        "from torchvision.models.detection.fcos import FCOSHead",
    ]
    return found.then(*lines, imports=imports)


DETECTORS.add(NAME, family(build_fcos, FAMILY, "torchvision", "BSD-3-Clause", "FCOS on P3..P7, or P2..P7"))
