"""Wiring, ports and calls that the dense detectors share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdflow.detectors import dense_stages as dense
from kdflow.detectors.normalize import Normalize
from kdflow.detectors.torchvision_parts import (
    PIXELS,
    TARGETS,
    Anchors,
    TorchvisionDetector,
    inner,
    loss_ports,
    port,
)
from kdflow.kinds import DENSE_VALUES
from kdflow.ports import Call, ClassRows, Detector, Stage
from kdflow.source import Source

FAMILY = "dense"
SIZES = {"image_sizes": "image_sizes"}


@dataclass(frozen=True)
class DenseForm:
    """What sets one dense detector's ports apart from another's.

    Attributes:
        strides: Pixels per cell, per level.
        width: Channels of the towers; 0 where there are none.
        classes: Number of classes without background.
        outputs: Further head outputs beside logits: ``deltas``, ``distribution``, ``centerness``.
        blocks: Blocks per tower.
        scores: ``sigmoid`` or ``softmax``.
        deltas: ``deltas`` or ``distances``.
        bins: Numbers per edge of ``distribution``.
        maps: Port that the head reads.
    """

    strides: tuple[int, ...]
    width: int
    classes: int
    outputs: tuple[str, ...]
    blocks: int = 0
    scores: str = "sigmoid"
    deltas: str = "deltas"
    bins: int = 0
    maps: str = "neck"


def head_stages(towers: dense.Towers, predict: Any, form: DenseForm) -> dict[str, Stage]:
    """Towers and predictors."""
    tail = dense.Tail(towers, predict, ("logits", *form.outputs))
    features = {"cls": "head.cls_tower", "box": "head.box_tower"}
    return {
        "head.towers": Stage(towers, {"maps": form.maps}, towers.outputs, dense=True),
        "head.tail": Stage(tail, features, tail.outputs, options={"from_block": None}, dense=True),
    }


def anchor_stage(generator: Any, maps: str = "neck") -> dict[str, Stage]:
    """The library's anchors as priors, on the maps that the head reads."""
    return {"head.priors": Stage(Anchors(generator), {"pixels": "normalize.pixels", "maps": maps}, ("anchors",))}


def assign_stages(assign: Any, classes: int, inputs: dict[str, str] | None = None) -> dict[str, Stage]:
    """Assignment of places to objects, then their classes; ``inputs`` beside priors and boxes."""
    named = {"priors": "head.priors", "boxes": TARGETS["boxes"], **(inputs or {})}
    labels = dense.AssignedLabels(classes)
    return {
        "assign": Stage(assign, named, dense.Assign.outputs),
        "assign.labels": Stage(
            labels, {"indices": "assign.indices", "labels": TARGETS["labels"]}, ("labels",)
        ),
    }


def output_inputs(form: DenseForm) -> dict[str, str]:
    """Head outputs as inputs of losses and detections."""
    return {name: f"head.{name}" for name in ("logits", *form.outputs)}


def last_stages(loss: Any, detect: Any, form: DenseForm) -> dict[str, Stage]:
    """The losses on the assignment, and the detections."""
    own = {"priors": "head.priors", "indices": "assign.indices", **TARGETS}
    return {
        "losses": Stage(loss, {**own, **output_inputs(form)}, loss.names),
        "detections": Stage(
            detect, {"priors": "head.priors", **SIZES, **output_inputs(form)}, ("detections",)
        ),
    }


def dense_ports(form: DenseForm, losses: Sequence[str], priors_key: str = "anchors") -> dict[str, Any]:
    """Ports of the head, the assignment, the losses and the detections."""
    count = len(form.strides)
    levels: dict[str, Any] = {"strides": form.strides, "length": count}
    logits = form.classes + (form.scores == "softmax")

    def of(name: str, stage: str, key: str, channels: int = 0, form: str = "") -> Any:
        return port(name, FAMILY, stage, key, channels=(channels,) * count if channels else (), form=form, **levels)

    made = {
        "deltas": of("head.deltas", "head.tail", "deltas", 4, form.deltas) if "deltas" in form.outputs else None,
        "centerness": of("head.centerness", "head.tail", "centerness") if "centerness" in form.outputs else None,
        "distribution": of("head.distribution", "head.tail", "distribution", 4 * form.bins, "distribution")
        if "distribution" in form.outputs
        else None,
    }
    return {
        **tower_ports(form, levels),
        "head.priors": of("head.priors", "head.priors", priors_key, form="xyxy"),
        "head.logits": of("head.logits", "head.tail", "logits", logits, form.scores),
        **{f"head.{name}": spec for name, spec in made.items() if spec is not None},
        "head.boxes": of("head.boxes", "head.decode", "boxes", 4, "xyxy"),
        **{f"assign.{key}": of(f"assign.{key}", "assign", key) for key in ("positive", "weights")},
        "assign.matched_boxes": of("assign.matched_boxes", "assign", "matched_boxes", 4, "xyxy"),
        "assign.indices": inner(
            "assign", "indices", "object of each place; -1 background, -2 not trained on", DENSE_VALUES, **levels
        ),
        "assign.labels": of("assign.labels", "assign.labels", "labels"),
        **loss_ports("losses", losses),
        "detections": port("detections", FAMILY, "detections", "detections"),
    }


def tower_ports(form: DenseForm, levels: dict[str, Any]) -> dict[str, Any]:
    """``head.cls_tower`` and its blocks, and the same for boxes."""
    if not form.blocks:
        return {}
    found: dict[str, Any] = {}
    for branch in ("cls", "box"):
        channels = (form.width,) * len(form.strides)
        name = f"head.{branch}_tower"
        found[name] = port(name, FAMILY, "head.towers", branch, channels=channels, **levels)
        for i in range(1, form.blocks + 1):
            found[f"{name}.{i}"] = port(
                f"{name}.{i}", FAMILY, "head.towers", f"{branch}.{i}", channels=channels, **levels
            )
    return found


def dense_calls(form: DenseForm, losses: Sequence[str]) -> dict[str, Call]:
    """What a method may run again."""
    outputs = ("logits", *form.outputs, "boxes", *(("cls_tower", "box_tower") if form.blocks else ()))
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
            {**output_inputs(form), "indices": "assign.indices", "boxes": "losses:boxes", "labels": "losses:labels"},
            {n: f"losses.{n}" for n in losses},
            doc="the detector's losses on other outputs or another assignment",
        ),
    }


def dense_detector(
    name: str,
    classes: tuple[str, ...],
    model: Any,
    form: DenseForm,
    losses: Sequence[str],
    *,
    features: Mapping[str, Any],
    stages: Mapping[str, Stage],
    normalize: Normalize,
    code: Source,
    class_rows: Mapping[str, ClassRows],
    size_divisor: int = 32,
    label_offset: int = 0,
) -> Detector:
    """The detector around a model with a dense head.

    Args:
        name: Of the detector.
        classes: Class names in label order.
        model: The library's, or one built alike.
        form: Its head.
        losses: Names of its losses.
        features: Ports up to what the head reads.
        stages: All stages.
        normalize: The first stage's module.
        code: Source that builds the model without kdflow.
        class_rows: Which weights have rows per class.
        size_divisor: Canvas sides are multiples of it.
        label_offset: The library's label of the first class.
    """
    return TorchvisionDetector(
        name,
        "dense",
        classes,
        model,
        {**features, **dense_ports(form, losses)},
        dict(stages),
        dense_calls(form, losses),
        {loss: f"losses.{loss}" for loss in losses},
        size_divisor=size_divisor,
        normalize=normalize,
        label_offset=label_offset,
        code=code,
        class_rows=dict(class_rows),
    )
