"""What a detector offers to a method: stages, ports and calls; and the batch that every plan receives.

A detector is a small graph of *stages*. A stage is a module that takes named values and returns a dict of named values; a *port*
is one of those values, with its kind, geometry, classes and taxonomy node, declared where the stage is made. A *call* names a
group of stages that a method may run again with other inputs (``{call: teacher.roi, boxes: student.roi.boxes}``): the graph
repeats exactly the stages that depend on what was replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from kdflow.errors import UsageError
from kdflow.kinds import BOXES, LABELS, MAP, SIZES, Kind
from kdflow.options import Options, checked
from kdflow.registry import Registry
from kdflow.standard_ports import standard_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdflow.source import Source

STANDARD = "standard"
"""A kind or taxonomy node that is left to the standard port of the same name."""


@dataclass(frozen=True)
class Classes:
    """How a value speaks of classes, so that a teacher's class order can be translated into the student's.

    Attributes:
        holds: ``scores``: numbers per class along the last axis; ``labels``: class numbers; ``detections``: per image a dict
            whose ``labels`` are class numbers.
        block: Consecutive numbers per class (4 for boxes of each class). Numbers behind those of the classes, a background's,
            belong to no class and stay where they are.
    """

    holds: Literal["scores", "labels", "detections"] = "scores"
    block: int = 1


CLASS_SCORES, CLASS_LABELS, CLASS_BOXES = Classes(), Classes("labels"), Classes(block=4)
CLASS_DETECTIONS = Classes("detections")


@dataclass(frozen=True)
class Port:
    """A named, typed place of a detector.

    Attributes:
        name: As references write it behind the owner.
        kind: Kind of the value; not needed for a standard port.
        node: Taxonomy node it stands at (``cnn/neck``), or None for values that are never compared (sizes, targets); not needed
            for a standard port.
        channels: Channels, per level for a pyramid (one number: the same on all); empty where unknown or not meaningful.
        strides: Input pixels per cell, per level; empty for values that are no maps.
        length: Number of entries of a stack (levels, decoder layers); as many as strides where not said; None when it is no
            stack or varies.
        form: What the numbers mean where that matters for comparison: ``softmax`` (C+1 scores, background last), ``sigmoid``
            (C scores), ``xyxy`` (pixels of the padded input), ``cxcywh`` (normalised by the unpadded image), ``deltas``,
            ``distances``, ``distribution``. Two different forms are never compared.
        classes: Which of its numbers belong to classes; None where it knows of none.
        doc: One line for listings; not needed for a standard port.
        stage: Stage that makes it; filled in by the detector.
        key: Its name in that stage's result; filled in by the detector.
    """

    name: str
    kind: Kind = field(default=Kind(STANDARD))
    node: str | None = STANDARD
    channels: Any = ()  # one number or a tuple is taken, a tuple is kept
    strides: tuple[int, ...] = ()
    length: int | None = None
    form: str = ""
    classes: Classes | None = None
    doc: str = ""
    stage: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        standard = standard_of(self.name)
        if self.kind.name == STANDARD:
            if standard is None:
                raise ValueError(f'"{self.name}" is no standard port, so it needs a kind')
            object.__setattr__(self, "kind", standard.kind)
        if not self.doc and standard is not None:
            object.__setattr__(self, "doc", standard.doc)
        if self.length is None and self.strides and self.kind.stack:
            object.__setattr__(self, "length", len(self.strides))
        if isinstance(self.channels, int):
            object.__setattr__(self, "channels", (self.channels,) * (self.length or 1))

    def within(self, family: str, stage: str = "", key: str = "") -> Port:
        """The port of a detector of this family, made by a stage under a key of its result."""
        standard, root = standard_of(self.name), 1 if family == "transformer" else 0
        node = (standard.node[root] if standard else None) if self.node == STANDARD else self.node
        return replace(self, node=node, stage=stage, key=key)


PortEntry = tuple[str, int]
"""A port and the index of an entry of its stack; 0 where it is no stack."""


@dataclass(frozen=True)
class Stage:
    """One executable part of a detector.

    Attributes:
        run: Module called as ``run(**inputs)``; returns a dict with the keys of ``gives``. It holds the library's own modules,
            so its parameters are the detector's parameters. Where its output sizes depend on data it has a method ``infer``,
            called like itself with fake tensors, that returns a dict of fake tensors of plausible size.
        reads: Argument -> port of the same detector, or a batch value (``images``, ``image_sizes``, ``targets.boxes``,
            ``targets.labels``).
        gives: Key of the result -> the port that it is, or several of the same value.
        stochastic: It draws random numbers (samplers, dropout outside of modules).
        options: Keyword arguments a call may pass (``from_block``), with their defaults.
        dense: True when it runs without data-dependent shapes, so it may be compiled.
        dense_in_eval: The same of a stage in evaluation mode, which in training looks at values (are they finite?).
        library: Path of the model's own module that does this stage's work in the library's forward pass: called there once,
            with the stage's first input as its first argument. An exported student is rewired at such modules.
        selective: ``run`` takes ``wanted`` too, the keys of its result that somebody reads, and makes these alone.
        nodes: Path of a module inside ``run`` -> taxonomy node that it stands at, where that is not the first port's.
        sizes: Arguments of which only the sizes of maps (height and width) are read, and where they lie.
    """

    run: nn.Module
    reads: Mapping[str, str]
    gives: Mapping[str, Port | tuple[Port, ...]]
    stochastic: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    dense: bool = False
    dense_in_eval: bool = False
    library: str = ""
    selective: bool = False
    nodes: Mapping[str, str] = field(default_factory=dict)
    sizes: tuple[str, ...] = ()

    @property
    def infer(self) -> Callable[..., dict[str, Any]] | None:
        """The rule for fake tensors; None where the module itself runs on them."""
        rule: Callable[..., dict[str, Any]] | None = getattr(self.run, "infer", None)
        return rule

    @property
    def ports(self) -> Iterator[tuple[str, Port]]:
        """Key of the result and port, for every port."""
        for key, made in self.gives.items():
            for port in made if isinstance(made, tuple) else (made,):
                yield key, port


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


ImageSizes = list[tuple[int, int]]
Detections = list[dict[str, "Tensor"]]


@dataclass(frozen=True)
class ClassRows:
    """How the rows of a predictor's weight and bias are ordered: ``groups`` x classes x ``block``.

    Attributes:
        groups: Anchors per cell whose rows follow each other.
        block: Rows per class.
        background: The first class is the background.
    """

    groups: int = 1
    block: int = 1
    background: bool = False


def _refuse(*_: Any) -> Any:
    raise RuntimeError("this detector has no model of its own: it consists of given values")


def _of_class_rows(detector: Detector) -> Iterable[str]:
    return detector.class_rows


@dataclass(frozen=True, eq=False)
class Detector:
    """A detection model as a graph of stages.

    What is done with it are functions of the detector, so that a copy uses its own model, and a detector that does one thing
    otherwise is ``replace(detector, inference=...)``.

    Attributes:
        name: Registered name (``faster-rcnn``).
        family: ``two-stage``, ``dense`` or ``transformer``.
        library: Package that the model comes from (``torchvision``), for listings and export.
        classes: Class names in label order.
        model: The library's own model; its state dict is what is saved, loaded and exported.
        stages: Stages by name, in the order in which the library runs them (random draws follow this order).
        calls: What a method may call with other inputs.
        losses: The detector's own loss terms in the library's order: term name -> port of a scalar.
        size_divisor: Canvas sides must be multiples of this.
        optional: Parameters that the detector's own losses never reach -> entries of ports through which a method may train
            them.
        class_rows: Name of a predictor (a layer with ``weight`` and ``bias``) -> order of its rows.
        predictors: Paths of the modules whose output has numbers per class; those of ``class_rows`` where not said.
        licence: Licence of the weights, where it is the model's and not its package's.
        code: Modules beside the family's own whose code makes the model.
        inference: See :meth:`predict`.
        writer: See :meth:`source`.
        loader: See :meth:`load`.
    """

    name: str
    family: str
    library: str
    classes: tuple[str, ...]
    model: nn.Module
    stages: Mapping[str, Stage]
    calls: Mapping[str, Call] = field(default_factory=dict)
    losses: Mapping[str, str] = field(default_factory=dict)
    size_divisor: int = 1
    optional: Mapping[str, Sequence[PortEntry]] = field(default_factory=dict)
    class_rows: Mapping[str, ClassRows] = field(default_factory=dict)
    predictors: Callable[[Detector], Iterable[str]] = _of_class_rows
    inference: Callable[[Detector, Tensor, ImageSizes], Detections] = _refuse
    writer: Callable[[Detector], Source] = _refuse
    loader: Callable[[Detector, str], None] = _refuse
    licence: str = ""
    code: tuple[str, ...] = ()

    @property
    def detects(self) -> bool:
        """False for a backbone that only offers features: it knows no classes, has no losses and predicts nothing."""
        return bool(self.classes)

    @cached_property
    def ports(self) -> Mapping[str, Port]:
        """Ports by name, as the stages declare them; a later stage's port takes the place of an earlier one's."""
        return {
            port.name: port.within(self.family, name, key)
            for name, stage in self.stages.items()
            for key, port in stage.ports
        }

    def class_modules(self) -> list[nn.Module]:
        """The modules whose output has numbers per class, in an order that only ports can translate."""
        return [self.model.get_submodule(path) for path in self.predictors(self)]

    def predict(self, images: Tensor, image_sizes: ImageSizes) -> Detections:
        """Detections by the library's own inference and post-processing.

        Args:
            images: (B, 3, H, W) floats in 0..1, padded.
            image_sizes: (height, width) of each image inside the canvas.

        Returns:
            Per image ``boxes`` (n, 4) xyxy pixels of the padded input, ``scores`` (n,), ``labels`` (n,) 0-based.
        """
        return self.inference(self, images, image_sizes)

    def source(self) -> Source:
        """Python that makes ``model`` from its library alone, without kdflow. Raises UsageError where there is none."""
        return self.writer(self)

    def load(self, weights: str) -> None:
        """Weights of a name that the library knows, into ``model``. Raises UsageError where they do not fit."""
        self.loader(self, weights)


@dataclass(frozen=True)
class DetectorFamily:
    """How a registered detector is built.

    Attributes:
        make: ``make(classes, options) -> Detector``.
        options: The keys that a bench may give.
        family: ``two-stage``, ``dense`` or ``transformer``; empty where an option ``family`` says it.
        library: Package the model comes from.
        licence: Licence of that package.
        doc: One line for listings.
        tiny: Options of a model that runs in no time at 96 pixels, for checks of an installation and for tests.
        ragged: Images of unequal size may share a canvas; else every image fills it.
    """

    make: Callable[[tuple[str, ...], Any], Detector]
    options: type[Options]
    family: str
    library: str
    licence: str
    doc: str = ""
    tiny: Mapping[str, Any] = field(default_factory=dict)
    ragged: bool = True

    def family_of(self, options: Mapping[str, Any]) -> str:
        """The family of a detector with these options: one that takes any model leaves it to them."""
        return self.family or str(options.get("family", ""))

    @property
    def stands_alone(self) -> bool:
        """True where a detector can be built without any option."""
        return not any(info.is_required() for info in self.options.model_fields.values())

    @property
    def brings_architecture(self) -> bool:
        """True where weights may be a model folder or hub name that says how the model is built as well."""
        return self.takes("weights")

    def build(self, classes: Sequence[str], **options: Any) -> Detector:
        """A detector with random weights.

        Args:
            classes: Class names in label order.
            options: Fields of ``options``.

        Raises:
            UsageError: Every unknown option and every wrong value, in one message.
        """
        name = self.options.title()
        return self.make(class_names(name, classes), checked(name, self.options, options))

    def takes(self, option: str) -> bool:
        """True where a bench may give this option."""
        return option in self.options.model_fields


def class_names(name: str, classes: Sequence[str]) -> tuple[str, ...]:
    """The classes of a detector; UsageError unless they are distinct and at least one."""
    if not classes or len(set(classes)) != len(classes):
        found = ", ".join(map(str, classes)) or "none"
        raise UsageError(f"{name}: classes must be distinct names, at least one; got {found}")
    return tuple(classes)


DETECTORS: Registry[DetectorFamily] = Registry("detector", "kdflow.detectors")
