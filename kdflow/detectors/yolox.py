"""YOLOX from nano to x: one prediction per cell, an objectness beside the class scores, and a dynamic assignment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from kdflow.detectors import dense_stages as dense
from kdflow.detectors import yolox_stages as own
from kdflow.detectors.backbones import Body
from kdflow.detectors.cnn_options import DetectionOptions, PictureOptions
from kdflow.detectors.dense_parts import FAMILY, DenseForm, dense_detector, head_outputs, head_stages, priors_of
from kdflow.detectors.expression import Expression
from kdflow.detectors.point_parts import LICENCE, detections
from kdflow.detectors.torchvision_parts import TARGETS, feature_stages
from kdflow.detectors.weights import COCO, load_from_url
from kdflow.detectors.yolox_model import PAFPN, YOLOX, Head, cell_boxes, level_widths
from kdflow.errors import UsageError, choices
from kdflow.functional.simota import SimotaRule
from kdflow.kinds import DENSE, DENSE_VALUES, PYRAMID
from kdflow.options import again, option
from kdflow.ports import CLASS_SCORES, DETECTORS, Call, ClassRows, Detector, DetectorFamily, Port, Stage

NAME = "yolox"
VARIANTS = {
    "nano": (0.33, 0.25, True),
    "tiny": (0.33, 0.375, False),
    "s": (0.33, 0.5, False),
    "m": (0.67, 0.75, False),
    "l": (1.0, 1.0, False),
    "x": (1.33, 1.25, False),
}
"""Multipliers of depth and width, and whether 3x3 blocks are depthwise."""
RELEASED = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/{}.pth"
RADII = {"center": 1.5, "box_or_center": 2.5}


class YoloxOptions(DetectionOptions):
    """Defaults are those of the original's current code."""

    name = NAME
    variant: Literal["nano", "tiny", "s", "m", "l", "x"] = option("s", "Size of the network, as released.")
    depth: float | None = option(None, "Multiplier of the number of blocks; none: the variant's (s 0.33, l 1).", gt=0)
    width: float | None = option(None, "Multiplier of the channels; none: the variant's (s 0.5, l 1).", ge=1 / 32)
    depthwise: bool | None = option(None, "Depthwise 3x3 blocks; none: the variant's (true for nano alone).")
    colours: Literal["bgr", "rgb"] = option("bgr", "Order of the channels; released weights want blue first.")
    pixels: Literal["0..255", "0..1"] = option(
        "0..255", "Range of the values that the network sees, without mean or deviation; released weights want 0..255."
    )
    padding: int = option(
        114,
        "Grey, of 0..255, that fills the canvas beyond a picture, where other detectors have zeros. The released preprocessing "
        "puts the resized picture into the top left corner of a square of 114, and the network learns that nothing is there.",
        "grey",
        ge=0,
        le=255,
    )
    divisor: int = option(
        32,
        "Canvas sides are multiples of it, a multiple of 32. With a bench whose size and max_size are 640, 640 gives the full "
        "square of the released evaluation (416 for nano and tiny); 32 pads no more than needed.",
        "size_divisible",
        gt=0,
        multiple_of=32,
    )
    min_size: int = again(PictureOptions, "min_size", 640)
    max_size: int = again(PictureOptions, "max_size", 640)
    region: Literal["center", "box_or_center"] = option(
        "center",
        "Candidates of an object: cells near its centre, or (the rule that the released weights were trained with) those in "
        "its box too, where cells that are not both cost more.",
    )
    radius: float | None = option(
        None, "Half the side of the square around a centre, in cells; none: 1.5, or 2.5 with ``box_or_center``.", gt=0
    )
    topk: int = option(10, "Number of an object's largest IoUs whose sum is the number of cells that it takes.", gt=0)
    iou_cost: float = option(3.0, "Factor of -log(IoU) beside the class cost in the assignment.", ge=0)
    l1: bool = option(False, "Adds the L1 loss on raw box outputs, which the original has in its last epochs alone.")
    loss_weights: tuple[float, float, float, float] = option(
        (1.0, 5.0, 1.0, 1.0), "Factors of the class, IoU, objectness and L1 losses."
    )
    score: float = again(DetectionOptions, "score", 0.01)
    nms: float = again(DetectionOptions, "nms", 0.65)

    @property
    def shape(self) -> tuple[float, float, bool]:
        """Multipliers of depth and width, and whether 3x3 blocks are depthwise."""
        depth, width, depthwise = VARIANTS[self.variant]
        return (
            depth if self.depth is None else self.depth,
            width if self.width is None else self.width,
            depthwise if self.depthwise is None else self.depthwise,
        )

    @property
    def rule(self) -> SimotaRule:
        """How cells are assigned."""
        radius = RADII[self.region] if self.radius is None else self.radius
        return SimotaRule(self.region, radius, self.topk, self.iou_cost)

    @property
    def weights_of_losses(self) -> dict[str, float]:
        """Loss term -> factor."""
        named = dict(zip(("loss_cls", "loss_bbox", "loss_obj", "loss_l1"), self.loss_weights))
        return named if self.l1 else {name: weight for name, weight in named.items() if name != "loss_l1"}


def make(classes: tuple[str, ...], options: YoloxOptions) -> Detector:
    """YOLOX on P3..P5; losses are kdflow's own."""
    depth, width, depthwise = options.shape
    made = Expression(
        YOLOX,
        backbone=Expression(PAFPN, depth, width, depthwise),
        head=Expression(Head, len(classes), width, depthwise),
        bgr=options.colours == "bgr",
        scale=255 if options.pixels == "0..255" else 1,
        **options.keywords(),
    )
    model = made.build()
    head: Head = model.head
    outputs = head_outputs(head.strides, len(classes), {"objectness": (0, ""), "deltas": (4, "cell offsets")})
    form = DenseForm(head.strides, len(classes), outputs, head.width, blocks=2)
    found = dense_detector(
        NAME,
        classes,
        model,
        made.source("YOLOX on torchvision"),
        form,
        {**picture_stages(model, width), **output_stages(model, form)},
        priors=priors_of(cell_boxes, form),
        decode=dense.Decode(own.decoded),
        assign=own.SimotaAssign(options.rule),
        loss=own.YoloxLoss(options.weights_of_losses),
        detect=dense.DenseDetect(model, detections, {name: name for name in form.outputs}),
        assign_reads={"labels": TARGETS["labels"], **PREDICTED},
        class_rows={f"head.cls_preds.{level}": ClassRows() for level in range(len(head.strides))},
        size_divisor=options.divisor,
    )
    overlap = form.port("assign.iou", kind=DENSE_VALUES, doc="(B, H*W) IoU of each assigned place with its object, else 0")
    assign = found.stages["assign"]
    stages = {**found.stages, "assign": replace(assign, gives={**assign.gives, "iou": overlap})}
    return replace(found, stages=stages, calls=calls(found.calls), loader=load_released)


def picture_stages(model: Any, width: float) -> dict[str, Stage]:
    """Images and targets to the neck."""
    modules = Body(model.backbone.backbone), own.Fuse(model.backbone)
    shape: Any = {"channels": level_widths(width), "strides": model.head.strides}
    stages = feature_stages(own.Pixels(model.transform), modules, (Port("backbone", **shape), Port("neck", **shape)))
    return {**stages, "backbone": replace(stages["backbone"], library="backbone.backbone")}


def output_stages(model: Any, form: DenseForm) -> dict[str, Stage]:
    """The head: stems, towers, predictors and scores."""
    head: Head = model.head
    doc = "first block of the head, which brings all levels to one width"
    stems = form.port("head.stems", kind=PYRAMID, node="cnn/head", channels=head.width, doc=doc)
    doc = "(B, H*W, K) class probability times objectness, per level"
    shape = {"kind": DENSE, "node": "cnn/head", "channels": form.classes}
    scores = form.port("head.scores", **shape, form="probability", classes=CLASS_SCORES, doc=doc)
    return {
        "head.stems": Stage(own.Stems(head), {"maps": form.maps}, {"stems": stems}, dense=True),
        **head_stages(own.towers_of(head), dense.HeadPredict(head), replace(form, maps="head.stems")),
        "head.scores": Stage(
            own.Scores(), {"logits": "head.logits", "objectness": "head.objectness"}, {"scores": scores}, dense=True
        ),
    }


PREDICTED = {"logits": "head.logits", "objectness": "head.objectness", "decoded": "head.boxes"}


def calls(shared: Mapping[str, Call]) -> dict[str, Call]:
    """What a method may run again; the assignment depends on predictions, so it takes others too."""
    inputs = {**TARGETS, **{argument: f"assign:{argument}" for argument in PREDICTED}}
    outputs = {**shared["assign"].outputs, "iou": "assign.iou"}
    doc = "assignment of places to other objects, or by other predictions"
    judged = "the detector's losses on other outputs, which are assigned by them, or on a given assignment"
    criterion = replace(shared["criterion"], doc=judged)
    return {**shared, "assign": Call(inputs, outputs, doc=doc), "criterion": criterion}


def load_released(detector: Detector, name: str) -> None:
    """Weights of a released name, their predictors' rows chosen by class name; UsageError where they do not fit."""
    names = [f"yolox_{variant}" for variant in VARIANTS]
    if name not in names:
        raise UsageError(f'weights "{name}": no such file, and no weights of that name were released.{choices(name, names)}')
    load_from_url(detector, name, RELEASED.format(name), COCO)


DOC = "YOLOX (nano to x) on P3..P5; losses are kdflow's own; the released weights are under Apache-2.0"
TINY = {"variant": "nano", "width": 0.125, "score": 0.0, "min_size": 64, "max_size": 128}
DETECTORS.add(NAME, DetectorFamily(make, YoloxOptions, FAMILY, "torchvision", LICENCE, DOC, tiny=TINY))
