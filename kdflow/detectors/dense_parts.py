"""Wiring, ports and calls that the dense detectors share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdflow.detectors import dense_stages as dense
from kdflow.detectors.loss_terms import LossTerms
from kdflow.detectors.torchvision_parts import (
    PIXELS,
    TARGETS,
    Anchors,
    detection_port,
    torchvision_detector,
)
from kdflow.kinds import DENSE_VALUES
from kdflow.ports import CLASS_LABELS, CLASS_SCORES, Call, ClassRows, Detector, Port, Stage
from kdflow.source import Source

FAMILY = "dense"
SIZES = {"image_sizes": "image_sizes"}


@dataclass(frozen=True)
class DenseForm:
    """What sets one dense head apart from another.

    Attributes:
        strides: Pixels per cell, per level.
        classes: Number of classes without background.
        outputs: What the head predicts: key of its result -> port.
        width: Channels of the towers; 0 where there are none.
        blocks: Blocks per tower.
        maps: Port that the head reads.
    """

    strides: tuple[int, ...]
    classes: int
    outputs: Mapping[str, Port]
    width: int = 0
    blocks: int = 0
    maps: str = "neck"

    def port(self, name: str, **details: Any) -> Port:
        """A port with an entry per level."""
        return Port(name, strides=self.strides, **details)

    @property
    def reads(self) -> dict[str, str]:
        """Head outputs as inputs of losses and detections."""
        return {key: port.name for key, port in self.outputs.items()}


def head_outputs(
    strides: tuple[int, ...], classes: int, others: Mapping[str, tuple[int, str]], scores: str = "sigmoid"
) -> dict[str, Port]:
    """Ports of a head's outputs.

    Args:
        strides: Pixels per cell, per level.
        classes: Number of classes without background.
        others: Outputs beside the class scores -> numbers per place (0 for one number without an axis) and form.
        scores: ``sigmoid``, or ``softmax`` with a background.
    """
    width = classes + (scores == "softmax")
    return {
        "logits": Port("head.logits", channels=width, strides=strides, form=scores, classes=CLASS_SCORES),
        **{
            key: Port(f"head.{key}", channels=count or (), strides=strides, form=form)
            for key, (count, form) in others.items()
        },
    }


def head_stages(towers: dense.Towers, predict: nn.Module, form: DenseForm) -> dict[str, Stage]:
    """Towers and predictors."""
    tail = dense.Tail(towers, predict, tuple(form.outputs))
    features = {"cls": "head.cls_tower", "box": "head.box_tower"}
    blocks = {key: form.port(_tower_name(key), channels=form.width, **_block_doc(key)) for key in towers.outputs}
    return {
        "head.towers": Stage(towers, {"maps": form.maps}, blocks, dense=True),
        "head.tail": Stage(tail, features, form.outputs, options={"from_block": None}, dense=True),
    }


def _tower_name(key: str) -> str:
    """``cls.1`` -> ``head.cls_tower.1``."""
    branch, dot, block = key.partition(".")
    return f"head.{branch}_tower{dot}{block}"


def _block_doc(key: str) -> dict[str, str]:
    """What a numbered block says of itself; the last one has the standard's text."""
    branch, dot, block = key.partition(".")
    tower = "classification" if branch == "cls" else branch
    return {"doc": f"block {block} of the {tower} tower, before its activation"} if dot else {}


def anchors_of(generator: Any, form: DenseForm) -> Stage:
    """The library's anchors as priors, on the maps that the head reads."""
    reads = {"pixels": "normalize.pixels", "maps": form.maps}
    return Stage(Anchors(generator), reads, {"anchors": form.port("head.priors", form="xyxy")}, sizes=("maps",))


def priors_of(make: Callable[[list[Tensor], tuple[int, ...]], list[Tensor]], form: DenseForm) -> Stage:
    """One prior per cell; ``make`` as :class:`kdflow.detectors.dense_stages.Priors` wants it."""
    priors = form.port("head.priors", form="xyxy")
    return Stage(dense.Priors(make, form.strides), {"maps": form.maps}, {"anchors": priors}, sizes=("maps",))


def dense_detector(
    name: str,
    classes: tuple[str, ...],
    model: nn.Module,
    code: Source,
    form: DenseForm,
    stages: Mapping[str, Stage],
    *,
    priors: Stage,
    decode: nn.Module,
    assign: nn.Module,
    loss: LossTerms,
    detect: nn.Module,
    assign_reads: Mapping[str, str] | None = None,
    class_rows: Mapping[str, ClassRows],
    size_divisor: int = 32,
    first_label: int = 0,
) -> Detector:
    """The detector around a model with a dense head: priors, decoded boxes, assignment, losses and detections behind its stages.

    Args:
        name: Registered name.
        classes: Class names in label order.
        model: The library's, or one built alike.
        code: Python that makes it.
        form: Its head.
        stages: All stages up to the head's outputs.
        priors: Gives ``anchors``.
        decode: (distributions, or deltas where there are none, priors) -> boxes.
        assign: Which object each place answers for.
        loss: The losses on an assignment.
        detect: The library's post-processing.
        assign_reads: What the assignment reads beside priors and boxes.
        class_rows: Which weights have rows per class.
        size_divisor: Canvas sides are multiples of it.
        first_label: The library's label of the first class.
    """
    source = "distribution" if "distribution" in form.outputs else "deltas"
    boxes = {"values": f"head.{source}", "priors": "head.priors"}
    own = {"priors": "head.priors", "indices": "assign.indices", **TARGETS}
    whole = {
        **stages,
        "head.priors": priors,
        "head.decode": Stage(decode, boxes, {"boxes": form.port("head.boxes", channels=4, form="xyxy")}),
        **assign_stages(assign, form, assign_reads or {}),
        "losses": Stage(loss, {**own, **form.reads}, loss.ports()),
        "detections": Stage(detect, {"priors": "head.priors", **SIZES, **form.reads}, detection_port()),
    }
    return torchvision_detector(
        name,
        FAMILY,
        classes,
        model,
        whole,
        dense_calls(form, loss.names),
        loss.names,
        code,
        size_divisor=size_divisor,
        first_label=first_label,
        class_rows=class_rows,
    )


def assign_stages(assign: nn.Module, form: DenseForm, reads: Mapping[str, str]) -> dict[str, Stage]:
    """Assignment of places to objects, then their classes; ``reads`` beside priors and boxes."""
    indices = "object of each place; -1 background, -2 not trained on"
    described = {
        "positive": form.port("assign.positive"),
        "weights": form.port("assign.weights"),
        "matched_boxes": form.port("assign.matched_boxes", channels=4, form="xyxy"),
        "indices": form.port("assign.indices", kind=DENSE_VALUES, doc=indices),
    }
    return {
        "assign": Stage(assign, {"priors": "head.priors", "boxes": TARGETS["boxes"], **reads}, described),
        "assign.labels": Stage(
            dense.AssignedLabels(form.classes),
            {"indices": "assign.indices", "labels": TARGETS["labels"]},
            {"labels": form.port("assign.labels", classes=CLASS_LABELS)},
        ),
    }


def dense_calls(form: DenseForm, losses: tuple[str, ...]) -> dict[str, Call]:
    """What a method may run again."""
    outputs = (*form.outputs, "boxes", *(("cls_tower", "box_tower") if form.blocks else ()))
    inputs, options = {"features": form.maps}, {}
    if form.blocks:
        inputs |= {"cls_tower": "head.tail:cls", "box_tower": "head.tail:box"}
        options = {"from_block": "head.tail"}
    assigned = ("indices", "positive", "weights", "matched_boxes", "labels")
    return {
        "backbone": PIXELS,
        "head": Call(
            inputs,
            {n: f"head.{n}" for n in outputs},
            options,
            "head on other maps, or its rest from block from_block on, given that block's outputs before the activation",
        ),
        "assign": Call(
            {"boxes": "assign:boxes", "labels": "assign.labels:labels"},
            {n: f"assign.{n}" for n in assigned},
            doc="assignment of places to other boxes",
        ),
        "criterion": Call(
            {**form.reads, "indices": "assign.indices", "boxes": "losses:boxes", "labels": "losses:labels"},
            {n: f"losses.{n}" for n in losses},
            doc="the detector's losses on other outputs or another assignment",
        ),
    }
