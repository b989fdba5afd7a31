"""What a detector offers to a method: stages, ports and calls; and the batch that every plan receives.

A detector is a small graph of *stages*. A stage is a module that takes named values and returns a dict of named values; a *port*
is one of those values, with its kind, geometry and taxonomy node. A *call* names a group of stages that a method may run again
with other inputs (``{call: teacher.roi, boxes: student.roi.boxes}``): the graph repeats exactly the stages that depend on what
was replaced.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, create_model

from kdflow.kinds import BOXES, LABELS, MAP, SIZES, Kind
from kdflow.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdflow.source import Source


@dataclass(frozen=True)
class PortSpec:
    """A named, typed place of a detector.

    Attributes:
        kind: Kind of the value.
        stage: Stage that makes it.
        key: Its name in that stage's result.
        node: Taxonomy node it stands at (``cnn/neck``), or None for values that are never compared (sizes, targets).
        channels: Channels, per level for a pyramid; empty where unknown or not meaningful.
        strides: Input pixels per cell, per level; empty for values that are no maps.
        length: Number of entries of a stack (levels, decoder layers); None when it is no stack or varies.
        form: What the numbers mean where that matters for comparison: ``softmax`` (C+1 scores, background last), ``sigmoid``
            (C scores), ``xyxy`` (pixels of the padded input), ``cxcywh`` (normalised by the unpadded image), ``deltas``,
            ``distances``, ``distribution``. Two different forms are never compared.
        doc: One line for listings.
    """

    kind: Kind
    stage: str
    key: str
    node: str | None = None
    channels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    length: int | None = None
    form: str = ""
    doc: str = ""


PortEntry = tuple[str, int]
"""A port and the index of an entry of its stack; 0 where it is no stack."""


@dataclass(frozen=True)
class Stage:
    """One executable part of a detector.

    Attributes:
        run: Module called as ``run(**inputs)``; returns a dict with the keys in ``outputs``. It holds the library's own modules,
            so its parameters are the detector's parameters.
        inputs: Argument -> port of the same detector, or a batch value (``images``, ``image_sizes``, ``targets.boxes``,
            ``targets.labels``).
        outputs: Keys of the result.
        stochastic: It draws random numbers (samplers, dropout outside of modules).
        infer: For stages whose output sizes depend on data: called as ``infer(**inputs)`` with fake tensors, returns a dict of
            fake tensors of plausible size. None where the stage itself runs on fake tensors.
        options: Keyword arguments a call may pass (``from_block``), with their defaults.
        dense: True when it runs without data-dependent shapes, so it may be compiled.
        library: Path of the model's own module that does this stage's work in the library's forward pass: called there once,
            with the stage's first input as its first argument. An exported student is rewired at such modules.
    """

    run: nn.Module
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    stochastic: bool = False
    infer: Callable[..., dict[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    dense: bool = False
    library: str = ""


@dataclass(frozen=True)
class Call:
    """A group of stages that may be run again with other inputs.

    Attributes:
        inputs: Argument in the spec -> port that it replaces (``boxes`` -> ``roi.boxes``, ``features`` -> ``neck``).
        outputs: Name used behind the node (``shared.logits``) -> port of the owner, evaluated with the replaced inputs.
        options: Option name -> stage whose keyword argument it sets (``from_block`` -> ``head.tail``).
        doc: One line for listings.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    options: Mapping[str, str] = field(default_factory=dict)
    doc: str = ""


@dataclass
class Batch:
    """What the data loader hands to a plan.

    Attributes:
        images: (B, 3, H, W) floats in 0..1, resized and padded with zeros to one canvas.
        image_sizes: (height, width) of each image inside the canvas, without padding.
        boxes: Per image (n, 4) float32, xyxy pixels of the padded input.
        labels: Per image (n,) int64, 0-based and contiguous, no background.
        image_ids: Identifier of each image in its data set.
        original_sizes: (height, width) of each image on disk, to map detections back.
    """

    images: Tensor
    image_sizes: list[tuple[int, int]]
    boxes: list[Tensor]
    labels: list[Tensor]
    image_ids: list[int] = field(default_factory=list)
    original_sizes: list[tuple[int, int]] = field(default_factory=list)

    def to(self, device: Any, non_blocking: bool = True) -> Batch:
        """The same batch on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return Batch(
            move(self.images),
            self.image_sizes,
            [move(b) for b in self.boxes],
            [move(x) for x in self.labels],
            self.image_ids,
            self.original_sizes,
        )

    def values(self) -> dict[str, Any]:
        """The batch as graph inputs, keyed by :data:`BATCH_PORTS`."""
        return {
            "images": self.images,
            "image_sizes": self.image_sizes,
            "targets.boxes": self.boxes,
            "targets.labels": self.labels,
        }


BATCH_PORTS: Mapping[str, Kind] = {
    "images": MAP,
    "image_sizes": SIZES,
    "targets.boxes": BOXES,
    "targets.labels": LABELS,
}


@runtime_checkable
class Detector(Protocol):
    """A detection model as a graph of stages.

    Attributes:
        name: Registered name (``faster-rcnn``).
        family: ``two-stage``, ``dense`` or ``transformer``.
        library: Package that the model comes from (``torchvision``), for listings and export.
        classes: Class names in label order.
        model: The library's own model; its state dict is what is saved, loaded and exported.
        ports: Ports by name.
        stages: Stages by name, in the order in which the library runs them (random draws follow this order).
        calls: What a method may call with other inputs.
        losses: The detector's own loss terms in the library's order: term name -> port of a scalar.
        size_divisor: Canvas sides must be multiples of this.
    """

    name: str
    family: str
    library: str
    classes: tuple[str, ...]
    model: nn.Module
    ports: Mapping[str, PortSpec]
    stages: Mapping[str, Stage]
    calls: Mapping[str, Call]
    losses: Mapping[str, str]
    size_divisor: int

    def predict(self, images: Tensor, image_sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """Detections by the library's own inference and post-processing.

        Args:
            images: (B, 3, H, W) floats in 0..1, padded.
            image_sizes: (height, width) of each image inside the canvas.

        Returns:
            Per image ``boxes`` (n, 4) xyxy pixels of the padded input, ``scores`` (n,), ``labels`` (n,) 0-based.
        """
        ...

    def source(self) -> Source:
        """Python that makes ``model`` from its library alone, without kdflow. Raises UsageError where there is none."""
        ...


@dataclass(frozen=True)
class DetectorFamily:
    """How a registered detector is built.

    Attributes:
        build: ``build(classes=..., **options) -> Detector``; its keyword options are the bench's keys and are checked by type.
        family: ``two-stage``, ``dense`` or ``transformer``.
        library: Package the model comes from.
        licence: Licence of that package.
        doc: One line for listings.
    """

    build: Callable[..., Detector]
    family: str
    library: str
    licence: str
    doc: str = ""

    @cached_property
    def options(self) -> type[BaseModel]:
        """Pydantic model of the keyword options that a bench may give; unknown keys are refused."""
        hints = typing.get_type_hints(self.build, include_extras=True)
        fields: dict[str, Any] = {
            name: (hints.get(name, Any), ... if parameter.default is inspect.Parameter.empty else parameter.default)
            for name, parameter in inspect.signature(self.build).parameters.items()
            if name not in ("classes", "weights")
        }
        return create_model("options", __config__=ConfigDict(extra="forbid", frozen=True), **fields)


DETECTORS: Registry[DetectorFamily] = Registry("detector", "kdflow.detectors")


def port_names(detector: Detector, pattern: str = "") -> Sequence[str]:
    """Names of the detector's ports that start with ``pattern``."""
    return sorted(name for name in detector.ports if name.startswith(pattern))


@dataclass(frozen=True)
class StandardPort:
    """A port name that means the same in every detector that offers it.

    Attributes:
        kind: Kind of the value.
        node: Part of the taxonomy node behind the root: in a CNN detector the first, in a transformer the second.
        doc: One line.
    """

    kind: Kind
    node: tuple[str | None, str | None]
    doc: str


def _ports() -> dict[str, StandardPort]:
    from kdflow import kinds as k

    backbone, neck, head = (
        ("cnn/backbone", "transformer/feature"),
        ("cnn/neck", "transformer/feature"),
        ("cnn/head", None),
    )
    roi, query, logit = ("cnn/rpn-roi", None), (None, "transformer/query"), (None, "transformer/logit")
    feature, none = (None, "transformer/feature"), (None, None)
    rows: dict[str, tuple[Kind, tuple[str | None, str | None], str]] = {
        "backbone": (k.PYRAMID, backbone, "backbone stages C2..C5 (those the neck reads)"),
        "neck": (k.PYRAMID, neck, "maps after cross-level fusion or input projection, finest first"),
        "detections": (k.DETECTIONS, none, "final boxes, scores and labels"),
        "rpn.logits": (k.DENSE, roi, "objectness, (B, H*W*A, 1) per level"),
        "rpn.deltas": (k.DENSE, roi, "box deltas of the RPN, (B, H*W*A, 4) per level"),
        "rpn.anchors": (k.PRIORS, none, "anchors, (H*W*A, 4) xyxy per level"),
        "rpn.labels": (k.DENSE_VALUES, none, "sampled anchors of the RPN loss: 1, 0, and -1 for not sampled"),
        "rpn.proposals": (k.BOXES, none, "proposals after NMS, per image"),
        "rpn.scores": (k.SCORES, none, "their objectness scores, per image"),
        "roi.boxes": (k.BOXES, none, "sampled proposals, ground truth appended, per image"),
        "roi.labels": (k.ROW_VALUES, none, "(N,) class of each sampled proposal; the background is K"),
        "roi.positive": (k.ROW_VALUES, none, "(N,) True where the sampled proposal is an object"),
        "roi.negative": (k.ROW_VALUES, none, "(N,) True where the sampled proposal is background"),
        "roi.matched_boxes": (k.BOXES, none, "ground-truth box of each sampled proposal, per image"),
        "roi.levels": (k.ROW_VALUES, none, "(N,) pyramid level each proposal is pooled from"),
        "roi.features": (k.ROW_BLOCKS, roi, "pooled (N, C, 7, 7) blocks"),
        "roi.fc1": (k.ROWS, roi, "(N, D) first layer of the box head before its ReLU"),
        "roi.fc2": (k.ROWS, roi, "(N, D) second layer of the box head before its ReLU"),
        "roi.embedding": (k.ROWS, roi, "(N, D) output of the box head before the predictors"),
        "roi.logits": (k.ROWS, roi, "(N, K+1) class scores, background last"),
        "roi.deltas": (k.ROWS, roi, "(N, 4(K+1)) box deltas per class, background last"),
        "head.cls_tower": (k.PYRAMID, head, "last block of the classification tower"),
        "head.box_tower": (k.PYRAMID, head, "last block of the box tower"),
        "head.logits": (k.DENSE, head, "(B, H*W*A, K) class scores per level"),
        "head.deltas": (k.DENSE, head, "(B, H*W*A, 4) box regression outputs per level"),
        "head.distribution": (k.DENSE, head, "(B, H*W, 4*(n+1)) edge distribution logits, edge-major, per level"),
        "head.centerness": (k.DENSE_VALUES, head, "(B, H*W) centerness or IoU logits per level"),
        "head.boxes": (k.DENSE, head, "decoded boxes, (B, H*W*A, 4) xyxy per level"),
        "head.priors": (k.PRIORS, none, "anchors or cell boxes, (H*W*A, 4) xyxy per level"),
        "assign.labels": (k.DENSE_VALUES, none, "(B, H*W*A) assigned class; K background, -1 ignored"),
        "assign.positive": (k.DENSE_VALUES, none, "(B, H*W*A) True where a place is assigned to an object"),
        "assign.weights": (
            k.DENSE_VALUES,
            none,
            "(B, H*W*A) 1 where a place is trained on, 0 where ignored or padding",
        ),
        "assign.matched_boxes": (k.DENSE, none, "(B, H*W*A, 4) ground-truth box of each place, zeros where none"),
        "encoder.inputs": (k.PYRAMID, feature, "maps that enter the transformer's encoder"),
        "encoder.memory": (k.PYRAMID, feature, "encoder outputs as maps, finest first"),
        "decoder.queries": (k.QUERIES, none, "queries without the denoising part: content, position, references"),
        "decoder.references": (k.LAYERS, query, "reference boxes or points of each layer, in 0..1"),
        "decoder.states": (k.LAYERS, query, "(B, N, D) hidden states of each layer"),
        "decoder.logits": (k.LAYERS, logit, "(B, N, K) class scores of each layer"),
        "decoder.boxes": (k.LAYERS, logit, "(B, N, 4) boxes of each layer, cxcywh normalised by the unpadded image"),
        "decoder.self_attention": (k.ATTENTIONS, query, "(B, h, N, N) per layer"),
        "decoder.cross_attention": (k.ATTENTIONS, query, "cross-attention weights per layer"),
        "match.indices": (k.PAIRS, none, "per layer and image: matched (query, target) indices"),
    }
    return {name: StandardPort(*row) for name, row in rows.items()}


STANDARD_PORTS: Mapping[str, StandardPort] = _ports()


def standard_port(name: str, family: str, stage: str, key: str, **details: Any) -> PortSpec:
    """A :class:`PortSpec` for a standard port: kind, taxonomy node and doc come from :data:`STANDARD_PORTS`.

    Args:
        name: Standard name. ``head.cls_tower.2`` (block 2 of a tower, before its activation) follows ``head.cls_tower``.
        family: Family of the detector, which decides between the CNN and the transformer node.
        stage: Stage that makes it.
        key: Its name in that stage's result.
        details: Further fields of PortSpec (channels, strides, length, form).
    """
    base = STANDARD_PORTS[name if name in STANDARD_PORTS else name.rpartition(".")[0]]
    node = base.node[1] if family == "transformer" else base.node[0]
    return PortSpec(base.kind, stage, key, node=node, doc=base.doc, **details)
