"""SSD, built from torchvision's own parts (``torchvision.models.detection.ssd.SSD``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, SSDHead, _vgg_extractor
from torchvision.ops import box_iou

from kdflow.detectors import dense_stages as dense
from kdflow.detectors.backbones import BackboneSpec, Norm, backbone_source, build_backbone, load_body
from kdflow.detectors.bridge import family
from kdflow.detectors.dense_parts import (
    FAMILY,
    DenseForm,
    assign_stages,
    dense_detector,
    last_stages,
)
from kdflow.detectors.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from kdflow.detectors.options import typed_options
from kdflow.detectors.torchvision_parts import (
    background_first,
    background_last,
    cells,
    feature_ports,
    feature_stages,
    image_list,
    port,
    pyramid,
)
from kdflow.errors import UsageError
from kdflow.ports import DETECTORS, ClassRows, Detector, Stage
from kdflow.source import Source, call_lines

NAME = "ssd"
TITLE = "SSD of torchvision"
LOSSES = ("bbox_regression", "classification")
LIBRARY = {"logits": "cls_logits", "deltas": "bbox_regression"}
PREPARE = {"logits": background_first}
VGG_SIZES = (300, 512)
VGG_MEAN, VGG_STD = (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)
STEPS = (8, 16, 32, 64, 100, 300)
SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)


class VggBody(nn.Module):
    """VGG16 up to conv4_3 and fc7."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.features = extractor.features
        self.block = extractor.extra[0]

    def forward(self, pixels: Tensor) -> dict[str, Any]:
        """``maps``: conv4_3 (stride 8) and fc7 (stride 16)."""
        first = self.features(pixels)
        return {"maps": [first, self.block(first)]}


class VggNeck(nn.Module):
    """The rescaled first map and the extra, ever coarser ones."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.scale_weight = extractor.scale_weight
        self.blocks = extractor.extra[1:]

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``maps``: what the head reads, finest first."""
        first, last = maps
        found = [self.scale_weight.view(1, -1, 1, 1) * functional.normalize(first), last]
        for block in self.blocks:
            found.append(block(found[-1]))
        return {"maps": found}


class DefaultBoxes(nn.Module):
    """The library's default boxes, which are those of every image of a batch."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, pixels: Tensor, maps: list[Tensor]) -> dict[str, Any]:
        """``anchors`` (H*W*A, 4) xyxy per level."""
        (boxes,) = self.generator(image_list(pixels, [(1, 1)]), list(maps))
        counts = [m.shape[-2] * m.shape[-1] * n for m, n in zip(maps, self.generator.num_anchors_per_location())]
        return {"anchors": list(boxes.split(counts))}

    def infer(self, pixels: Tensor, maps: list[Tensor]) -> dict[str, Any]:
        """As many boxes as cells times anchors."""
        counts = [m.shape[-2] * m.shape[-1] * n for m, n in zip(maps, self.generator.num_anchors_per_location())]
        return {"anchors": [pixels.new_empty(n, 4) for n in counts]}


class Head(nn.Module):
    """The library's head: one convolution per level and branch, no towers."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.classes = head.classification_head.module_list
        self.boxes = head.regression_head.module_list
        self.columns: int = head.classification_head.num_columns

    def forward(self, maps: list[Tensor]) -> dict[str, Any]:
        """``logits`` (B, H*W*A, K+1), background last, and ``deltas`` (B, H*W*A, 4) per level."""
        deltas = [cells(layer(m), 4) for layer, m in zip(self.boxes, maps)]
        logits = [cells(layer(m), self.columns) for layer, m in zip(self.classes, maps)]
        return {"logits": [background_last(x) for x in logits], "deltas": deltas}


def match(model: Any, priors: list[Tensor], boxes: list[Tensor]) -> Tensor:
    """The library's matcher; images without objects have background only."""
    places = torch.cat(priors)
    nobody = torch.full((len(places),), -1, dtype=torch.int64, device=places.device)
    return torch.stack([model.proposal_matcher(box_iou(own, places)) if len(own) else nobody for own in boxes])


def joined(model: Any, outputs: dict[str, list[Tensor]], priors: list[Tensor], sizes: Any) -> list[dict[str, Tensor]]:
    """The library's post-processing, which takes all levels in one."""
    whole = {name: torch.cat(levels, dim=1) for name, levels in outputs.items()}
    return model.postprocess_detections(whole, [torch.cat(priors)] * len(sizes), sizes)


def stages(model: Any, normalize: Normalize, form: DenseForm) -> dict[str, Stage]:
    """All stages in the library's order."""
    vgg = hasattr(model.backbone, "scale_weight")
    body, neck = (VggBody(model.backbone), VggNeck(model.backbone)) if vgg else pyramid(model)
    priors = DefaultBoxes(model.anchor_generator)
    decode = dense.Decode(model.box_coder.decode_single)
    loss = dense.DenseLoss(model, LOSSES, SSD.compute_loss, LIBRARY, offset=1, prepare=PREPARE)
    detect = dense.DenseDetect(model, joined, LIBRARY, offset=1, prepare=PREPARE)
    return {
        **feature_stages(normalize, body, neck),
        "head.tail": Stage(Head(model.head), {"maps": "neck"}, ("logits", "deltas"), dense=True),
        "head.priors": Stage(priors, {"pixels": "normalize.pixels", "maps": "neck"}, ("anchors",)),
        "head.decode": Stage(decode, {"deltas": "head.deltas", "priors": "head.priors"}, ("boxes",)),
        **assign_stages(dense.Assign(model, match), form.classes),
        **last_stages(loss, detect, form),
    }


@dataclass(frozen=True)
class Plan:
    """What an SSD is built from.

    Attributes:
        backbone: Makes the maps that the head reads.
        widths: Channels of these maps.
        strides: Their nominal strides.
        ports: Ports of backbone and neck.
        ratios: Aspect ratios per level, beside 1.
        boxes: Further settings of the default boxes.
        source: Defines ``backbone``.
    """

    backbone: nn.Module
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    ports: dict[str, Any]
    ratios: tuple[tuple[int, ...], ...]
    boxes: dict[str, Any]
    source: Source


def vgg_plan(size: int, pretrained: str | None, trainable: int | None) -> Plan:
    """SSD300 or SSD512 of the paper; UsageError for other sizes."""
    if size not in VGG_SIZES:
        raise UsageError(
            f"{NAME}: the VGG16 variant is made for size 300 or 512, not {size}; other backbones take any size"
        )
    kept = (5 if pretrained is None else 4) if trainable is None else trainable
    if not 0 <= kept <= 5:
        raise UsageError(f"{NAME}: trainable_layers counts backbone stages from the last one: 0 to 5, not {kept}")
    vgg = torchvision.models.vgg16()
    if pretrained is not None:
        load_body(vgg, "vgg16", pretrained)
    high = size == 512
    strides = (8, 16, 32, 64, 128, 256, 512) if high else STEPS
    widths = (512, 1024, 512, 256, 256, 256, 256)[: len(strides)]
    ratios = ((2,), (2, 3), (2, 3), (2, 3), *(((2, 3),) if high else ()), (2,), (2,))
    settings: dict[str, Any] = {} if high else {"scales": list(SCALES), "steps": list(STEPS)}
    ports = {
        **feature_ports(BackboneSpec("vgg16"), (), FAMILY),
        "backbone": port("backbone", FAMILY, "backbone", "maps", channels=(512, 1024), strides=(8, 16), length=2),
        "neck": port("neck", FAMILY, "neck", "maps", channels=widths, strides=strides, length=len(strides)),
    }
    imports = ["import torchvision", "from torchvision.models.detection.ssd import _vgg_extractor"]
    lines = (f"backbone = _vgg_extractor(torchvision.models.vgg16(), {high}, 5)",)
    source = Source(TITLE, "torchvision", (*imports,), (), lines)
    return Plan(_vgg_extractor(vgg, high, kept), widths, strides, ports, ratios, settings, source)


def pyramid_plan(spec: BackboneSpec) -> Plan:
    """SSD's head on a feature pyramid, for backbones that the paper did not know."""
    backbone, channels = build_backbone(spec)
    strides = tuple(2**level for level in spec.levels)
    widths = (spec.width,) * len(strides)
    backbone.out_channels = list(widths)  # type: ignore[assignment]
    source = backbone_source(TITLE, spec, channels).then(f"backbone.out_channels = {list(widths)}")
    return Plan(backbone, widths, strides, feature_ports(spec, channels, FAMILY), ((2, 3),) * len(strides), {}, source)


@typed_options(NAME)
def build_ssd(
    classes: tuple[str, ...],
    *,
    backbone: str = "vgg16",
    pretrained_backbone: str | None = None,
    size: int = 300,
    neck: int = 256,
    norm: Norm = "batch",
    trainable_layers: int | None = None,
    iou: float = 0.5,
    positive: float = 0.25,
    score: float = 0.01,
    nms: float = 0.45,
    detections: int = 200,
    candidates: int = 400,
    image_mean: tuple[float, float, float] | None = None,
    image_std: tuple[float, float, float] | None = None,
) -> Detector:
    """SSD; defaults are torchvision's ``ssd300_vgg16``.

    Args:
        classes: Class names in label order.
        backbone: ``vgg16`` for the paper's SSD300 and SSD512; a torchvision ResNet or ``timm:<name>`` puts SSD's head on a
            feature pyramid P3..P7.
        pretrained_backbone: State-dict file or weight name (``default``, ``IMAGENET1K_V1``) for the backbone alone.
        size: Side of the square input that the default boxes are made for and that the exported model resizes to.
        neck: Channels of the pyramid; not used by vgg16.
        norm: ``batch``, or ``frozen`` for BatchNorms that are constants; not used by vgg16.
        trainable_layers: Backbone stages that train, counted from the last; none: all without pretrained weights.
        iou: IoU from which a default box answers for an object.
        positive: Share of objects in the class loss; the hardest background boxes fill the rest.
        score: Least score of a detection.
        nms: IoU above which a worse detection of the same class is dropped.
        detections: Most detections per image.
        candidates: Most candidates per class before suppression.
        image_mean: Mean colour that is subtracted; none: the backbone's usual one.
        image_std: Standard deviation that is divided by; none: the backbone's usual one.
    """
    vgg = backbone == "vgg16"
    if vgg:
        plan = vgg_plan(size, pretrained_backbone, trainable_layers)
    else:
        spec = BackboneSpec(backbone, neck, norm, 3, "p6p7", pretrained_backbone, trainable_layers)
        plan = pyramid_plan(spec)
    mean = image_mean or (VGG_MEAN if vgg else IMAGENET_MEAN)
    std = image_std or (VGG_STD if vgg else IMAGENET_STD)
    settings: dict[str, Any] = {
        "image_mean": list(mean),
        "image_std": list(std),
        "score_thresh": score,
        "nms_thresh": nms,
        "detections_per_img": detections,
        "iou_thresh": iou,
        "topk_candidates": candidates,
        "positive_fraction": positive,
    }
    anchors = DefaultBoxGenerator([list(r) for r in plan.ratios], **plan.boxes)
    per_cell = anchors.num_anchors_per_location()
    head = SSDHead(list(plan.widths), per_cell, len(classes) + 1)
    model = SSD(plan.backbone, anchors, (size, size), len(classes) + 1, head=head, **settings)
    form = DenseForm(plan.strides, 0, len(classes), ("deltas",), scores="softmax")
    normalize = Normalize(mean, std)
    return dense_detector(
        NAME,
        classes,
        model,
        form,
        LOSSES,
        features=plan.ports,
        stages=stages(model, normalize, form),
        size_divisor=1 if vgg else 32,
        normalize=normalize,
        label_offset=1,
        code=source(plan, per_cell, size, len(classes), settings),
        class_rows={
            f"head.classification_head.module_list.{i}": ClassRows(groups=n, background=True)
            for i, n in enumerate(per_cell)
        },
    )


def source(plan: Plan, per_cell: Sequence[int], size: int, classes: int, settings: dict[str, Any]) -> Source:
    """Python that builds the model without kdflow."""
    boxes = "".join(f", {key}={value}" for key, value in plan.boxes.items())
    lines = [
        f"anchors = DefaultBoxGenerator({[list(r) for r in plan.ratios]}{boxes})",
        f"head = SSDHead({list(plan.widths)}, {list(per_cell)}, {classes + 1})",
        *call_lines(f"model = SSD(backbone, anchors, ({size}, {size}), {classes + 1}, head=head,", settings),
    ]
    imports = [
        "from torchvision.models.detection.anchor_utils import DefaultBoxGenerator",
        "from torchvision.models.detection.ssd import SSD, SSDHead",
    ]
    return plan.source.then(*lines, imports=imports)


DETECTORS.add(
    NAME,
    family(build_ssd, FAMILY, "torchvision", "BSD-3-Clause", "SSD300 and SSD512, or SSD's head on a pyramid"),
)
