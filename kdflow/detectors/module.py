"""Any ``torch.nn.Module`` as a detector: a bench names the function that builds it and the submodules that methods read."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdflow.detectors.conventions import TorchvisionConvention, TransformersConvention
from kdflow.detectors.module_stage import Convention, ModuleStage, Tap
from kdflow.detectors.normalize import IMAGENET_MEAN, IMAGENET_STD
from kdflow.detectors.torchvision_parts import evaluating
from kdflow.detectors.weights import no_names
from kdflow.errors import UsageError, choices
from kdflow.kinds import ANY, DENSE, KINDS, PYRAMID, SCALAR, Kind
from kdflow.options import Options, checked, option
from kdflow.plugins import find_function
from kdflow.ports import (
    CLASS_SCORES,
    DETECTORS,
    STANDARD,
    Detections,
    Detector,
    DetectorFamily,
    ImageSizes,
    Port,
    Stage,
)
from kdflow.source import Source
from kdflow.standard_ports import standard_of
from kdflow.taxonomy import load_tree

NAME = "module"
READS = {"images": "images", "image_sizes": "image_sizes", "boxes": "targets.boxes", "labels": "targets.labels"}


class PortOptions(Options):
    """A port of the module."""

    name = "port"
    at: str | tuple[str, ...] = option(..., "Path of the submodule whose output it is; a list for one entry each.")
    kind: str | None = option(None, "Kind of the value; a standard port of this name knows its own, strides mean a pyramid.")
    node: str | None = option(None, "Taxonomy node; a standard port of this name knows its own.")
    strides: tuple[int, ...] = option((), "Input pixels per cell, per level.")
    length: int | None = option(None, "Entries, where it is a list without strides (decoder layers).", gt=0)
    form: str = option("", "What the numbers mean: sigmoid, softmax, xyxy, cxcywh, deltas, distances, distribution.")
    take: int | str | None = option(None, "Index or key of what counts where the submodule gives several values.")
    doc: str = option("", "One line for listings.")


class ModuleOptions(Options):
    """A detector of one's own."""

    name = NAME
    build: str = option(..., "Function that makes the module: PLUGIN:FUNCTION or package.module:FUNCTION.")
    family: Literal["two-stage", "dense", "transformer"] = option(..., "What sort of detector it is.")
    options: dict[str, Any] = option({}, "Keywords of that function; classes, num_classes and num_labels are filled in.")
    ports: dict[str, dict[str, Any]] = option({}, "Port -> where it is read: at, kind, node, strides, length, form, take.")
    losses: Literal["all"] | tuple[str, ...] = option("all", "Names of its loss terms to train on; all of them as one sum.")
    convention: Literal["torchvision", "transformers"] = option("torchvision", "How it is called.")
    size_divisor: int = option(32, "Canvas sides are multiples of this.", gt=0)
    first_label: Literal[0, 1] = option(0, "torchvision: its label of the first class; 1 where 0 is the background.")
    scores: Literal["sigmoid", "softmax"] = option("sigmoid", "transformers: what logits are; softmax has the background last.")
    normalize: Literal["none", "imagenet"] = option("none", "transformers: pixel statistics.")
    detections: int = option(100, "transformers: most detections per image.", gt=0)

    def calling(self) -> Convention:
        """The convention."""
        if self.convention == "torchvision":
            return TorchvisionConvention(self.first_label)
        statistics = (IMAGENET_MEAN, IMAGENET_STD) if self.normalize == "imagenet" else None
        return TransformersConvention(self.scores, statistics, self.detections)


def make(classes: tuple[str, ...], options: ModuleOptions) -> Detector:
    """The detector around a module."""
    model = build_module(classes, options)
    ports = {name: declared(name, one, model, len(classes)) for name, one in options.ports.items()}
    convention = options.calling()
    names = {"loss": convention.total} if options.losses == "all" else {name: name for name in options.losses}
    losses = {f"losses.{name}": wanted for name, wanted in names.items()}
    run = ModuleStage(model, {name: tap for name, (_, tap) in ports.items()}, losses, convention)
    loss_ports = {key: Port(key, SCALAR, doc="loss term of the module") for key in losses}
    gives = {**{name: port for name, (port, _) in ports.items()}, **loss_ports}
    return Detector(
        NAME,
        options.family,
        options.build.partition(":")[0],
        classes,
        model,
        {"model": Stage(run, READS, gives, stochastic=True, selective=True)},
        losses={name: f"losses.{name}" for name in names},
        size_divisor=options.size_divisor,
        predictors=lambda _: [path for port, tap in ports.values() if port.classes for path in tap.paths],
        inference=predict,
        writer=partial(no_source, build=options.build),
        loader=no_names,
        code=(find_function(options.build).__module__,),
    )


def build_module(classes: tuple[str, ...], options: ModuleOptions) -> nn.Module:
    """What the function makes; UsageError where it cannot."""
    function = find_function(options.build)
    known = inspect.signature(function).parameters
    count = len(classes) + options.first_label
    filled = {"classes": classes, "num_classes": count, "num_labels": len(classes)}
    given = {key: value for key, value in filled.items() if key in known and key not in options.options}
    try:
        model = function(**given, **options.options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{options.build} cannot build the module: {error}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{options.build} gives a {type(model).__name__}, no torch.nn.Module")
    return model


def declared(name: str, written: Mapping[str, Any], model: nn.Module, classes: int) -> tuple[Port, Tap]:
    """A port of the bench's table and how it is read; UsageError where path, kind or node do not exist."""
    own, standard = checked(f"port {name}", PortOptions, written), standard_of(name)
    paths = (own.at,) if isinstance(own.at, str) else own.at
    modules = dict(model.named_modules())
    for path in paths:
        if path not in modules or not path:
            raise UsageError(f'port {name}: the module has no submodule "{path}".{choices(path, list(filter(None, modules)))}')
    if own.kind is not None and own.kind not in KINDS:
        raise UsageError(f'port {name}: no kind "{own.kind}".{choices(own.kind, KINDS)}')
    tree = load_tree()
    if own.node is not None and own.node not in tree:
        raise UsageError(f'port {name}: no taxonomy node "{own.node}".{choices(own.node, [n.id for n in tree])}')
    usual: Kind = standard.kind if standard else PYRAMID if own.strides else ANY
    kind = KINDS[own.kind] if own.kind else usual
    scores = CLASS_SCORES if own.form in ("sigmoid", "softmax") else None
    port = Port(
        name,
        kind,
        own.node if own.node or standard is None else STANDARD,
        strides=own.strides,
        length=own.length if own.length is not None else len(paths) if len(paths) > 1 and not own.strides else None,
        form=own.form,
        classes=scores,
        doc=own.doc or (standard.doc if standard else f"output of {', '.join(paths)}"),
    )
    places = classes + (own.form == "softmax") if scores else 4
    return port, Tap(paths, kind, own.strides, port.length, own.take, places if kind == DENSE else 0)


def predict(detector: Detector, images: Tensor, image_sizes: ImageSizes) -> Detections:
    """Detections by the module itself; see :meth:`kdflow.ports.Detector.predict`."""
    stage: Any = detector.stages["model"].run
    with evaluating(detector.model), torch.no_grad():
        return stage.convention.detections(detector.model, images, image_sizes)


def no_source(detector: Detector, build: str) -> Source:
    """A module of one's own is built by its own code."""
    raise UsageError(f"the model is built by {build}, which is code of your own; load the weights into what that makes")


DETECTORS.add(NAME, DetectorFamily(make, ModuleOptions, "", "your own", "yours", "any torch.nn.Module, by its bench alone"))
