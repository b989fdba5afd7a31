"""Parts of detectors with random weights: ``modules: {dense: {build: {detector: fcos, part: head}, like: student.neck}}``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import ModuleDict

from kdflow.errors import KdflowError, choices
from kdflow.graph.copies import CopiedStages, stages_of
from kdflow.graph.node import Graph, Role
from kdflow.graph.rewire import Wanted
from kdflow.graph.rewiring import Rewiring
from kdflow.graph.runtime import stream_key
from kdflow.ports import DETECTORS, Call, Detector, DetectorFamily, Port
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import Method, ModuleEntry
from kdflow.spec.reference import parse_reference


@dataclass(frozen=True)
class Place:
    """Where a part stands: a port of a detector of the run, or some of its entries.

    Attributes:
        port: Name of the port, which the built detector has as well.
        wanted: The reference to it.
        channels: Of the entries that are taken; empty where unknown.
        strides: The same.
    """

    port: str
    wanted: Wanted
    channels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()


class Parts:
    """Detectors that are built for a part of them.

    Such a detector is an owner like any other, named after its module; whatever in it reads the port that is called like the
    place that the part stands on, reads that place. The rest of it never runs.

    Args:
        method: The resolved method.
        document: Receives the faults.
        detectors: Those of the run.
        seed: Seed of the weights.

    Attributes:
        everyone: The detectors of the run, and those that are built.
        open: What stands on places whose references are still to be followed.
        doubtful: References that name no port of a detector, which are still to be followed for what is wrong with them.
        sized: False where the detectors stand for many, so that nothing is known of their sizes.
    """

    def __init__(self, method: Method, document: Document, detectors: Mapping[str, Detector], seed: int) -> None:
        self.method, self.document, self.detectors, self.seed = method, document, detectors, seed
        self.everyone: dict[str, Detector] = dict(detectors)
        self.open: list[Rewiring] = []
        self.doubtful: list[Wanted] = []
        self.sized = True
        self._found: dict[str, Rewiring | None] = {}

    def declared(self, name: str) -> bool:
        """True for the name of a module with ``build:``."""
        module = self.method.modules.get(name)
        return module is not None and module.build is not None

    def whole(self, name: str) -> Rewiring | None:
        """The detector on its place; None after recording a fault, once."""
        if name not in self._found:
            self._found[name] = self._made(name, self.method.modules[name])
        return self._found[name]

    def call(self, name: str) -> str:
        """The call that a module's bare name stands for."""
        build = self.method.modules[name].build
        return build.part if build else ""

    def family_of(self, owner: str) -> str:
        """The family of a detector, or of one that is to be built; empty where there is none."""
        module = self.method.modules.get(owner)
        name = module.build.detector if module is not None and module.build is not None else ""
        if owner in self.everyone:
            return self.everyone[owner].family
        return DETECTORS.get(name).family if name in DETECTORS else ""

    def check(self, graph: Graph) -> None:
        """Report stages with weights that run and belong to no part."""
        for node in graph.of_role(Role.STAGE):
            if (base := self._found.get(node.owner)) is None or node.run is None:
                continue
            call = self.call(base.name)
            held = stages_of(self._detector(base), self._detector(base).calls[call])
            if node.stage not in held and any(True for _ in node.run.run.parameters()):
                problem = f'"{base.name}" was built for its {call}, and what is read of it runs its {node.stage} as well'
                self.document.report(("modules", base.name, "build", "part"), problem)

    def _detector(self, rewiring: Rewiring) -> Detector:
        return self.everyone[rewiring.owner]

    def _made(self, name: str, entry: ModuleEntry) -> Rewiring | None:
        path: Steps = ("modules", name)
        if self._is_taken(name, path) or (place := self._place(entry, path)) is None:
            return None
        detector = self._built(name, entry, place, (*path, "build"))
        if detector is None or not self._fits(detector, entry, place, path):
            return None
        self.everyone[name] = detector
        copied = CopiedStages({stage: own.run for stage, own in detector.stages.items()}, trainable=True)
        copies = {stage: (own, copied) for stage, own in detector.stages.items()}
        made = Rewiring(name, name, Call({}, {}), {place.port: place.wanted}, copies=copies, weights=name)
        self.open.append(made)
        return made

    def _is_taken(self, name: str, path: Steps) -> bool:
        """True after recording that the name means something else, too."""
        method = self.method
        if name in self.detectors or name in method.nodes or name in method.prepare:
            self.document.report(path, f'"{name}" is the name of a detector or node as well; choose another')
            return True
        return is_taken(self.method, self.document, name)

    def _place(self, entry: ModuleEntry, path: Steps) -> Place | None:
        wanted = str(entry.like), (*path, "like")
        try:
            parsed = parse_reference(wanted[0])
        except ValueError:
            self.doubtful.append(wanted)
            return None
        detector = self.detectors.get(parsed.base)
        port: Port | None = detector.ports.get(parsed.rest) if detector and not parsed.module else None
        if port is None:
            self.doubtful.append(wanted)
            return None
        key: Any = slice(None) if parsed.span is None else slice(*parsed.span)
        key = key if parsed.index is None else slice(parsed.index, parsed.index + 1 or None)
        return Place(parsed.rest, wanted, port.channels[key], port.strides[key])

    def _built(self, name: str, entry: ModuleEntry, place: Place, path: Steps) -> Detector | None:
        """The detector, with random weights from a stream of its own."""
        build, report = entry.build, self.document.report
        if build is None:
            raise AssertionError(name)
        if build.detector not in DETECTORS:
            report((*path, "detector"), f'no detector "{build.detector}".{choices(build.detector, DETECTORS.names())}')
            return None
        family = DETECTORS.get(build.detector)
        known = family.options.model_fields
        unknown = [key for key in build.options if key not in known]
        for key in unknown:
            report((*path, key), f'{build.detector} has no option "{key}".{choices(key, known)}')
        if unknown:
            return None
        options = {**_least(family), **(_width(family, place) if self.sized else {}), **build.options}
        try:
            with torch.random.fork_rng(devices=[]), torch.device("cpu" if self.sized else "meta"):
                torch.manual_seed(stream_key(self.seed, 0, f"init/{name}"))
                return family.build(self.detectors["student"].classes, **options)
        except KdflowError as error:
            report(path, str(error))
        return None

    def _fits(self, detector: Detector, entry: ModuleEntry, place: Place, path: Steps) -> bool:
        """True where the detector has the part and the place, and both are alike in size; else a fault is recorded."""
        part, report = entry.build.part if entry.build else "", self.document.report
        weighted = [call for call in detector.calls if _has_weights(detector, call)]
        if part not in weighted:
            why = "has no weights" if part in detector.calls else "is none of its parts"
            report((*path, "build", "part"), f'"{part}" of {detector.name} {why}.{choices(part, weighted)}')
        elif place.port not in detector.ports:
            problem = f'{detector.name} has no "{place.port}", so its {part} cannot stand there.'
            report((*path, "like"), problem + choices(place.port, detector.ports))
        elif self.sized and (problem := _misfit(detector, part, place)):
            report((*path, "like"), problem)
        else:
            return True
        return False


def is_taken(method: Method, document: Document, module: str) -> bool:
    """True after recording that weights cannot be kept under this name."""
    node = method.nodes.get(module)
    if hasattr(ModuleDict, module):
        problem = f'torch has a "{module}" of its own where weights are kept; choose another name'
    elif node is not None and node.op is not None:
        problem = f'nodes have a "{module}" as well, and weights are kept by name; choose another name'
    else:
        return False
    document.report(("modules", module), problem)
    return True


def _least(family: DetectorFamily) -> dict[str, Any]:
    """A backbone that is quickly made, since it is thrown away."""
    return {"backbone": family.tiny["backbone"]} if "backbone" in family.tiny else {}


def _width(family: DetectorFamily, place: Place) -> dict[str, Any]:
    """The width of the place as the detector's option, where it has one for it."""
    known = place.port == "neck" and family.takes("neck") and len(set(place.channels)) == 1
    return {"neck": place.channels[0]} if known else {}


def _has_weights(detector: Detector, call: str) -> bool:
    stages = stages_of(detector, detector.calls[call])
    return any(True for name in stages for _ in detector.stages[name].run.parameters())


def _misfit(detector: Detector, part: str, place: Place) -> str:
    """How the part differs from the place; empty where it does not."""
    wanted = detector.ports[place.port]
    if set(wanted.channels) and set(place.channels) and set(wanted.channels) != set(place.channels):
        given, own = (", ".join(map(str, sorted(set(c)))) for c in (place.channels, wanted.channels))
        return f"there are {given} channels, and {detector.name} is built for {own}; give it the option in build:"
    stages = stages_of(detector, detector.calls[part])
    strides = {port.strides for port in detector.ports.values() if port.stage in stages and port.strides}
    if place.strides and strides and strides != {place.strides}:
        given, own = (", ".join(map(str, s)) for s in (place.strides, next(iter(strides))))
        problem = f"there are strides {given}, and the {part} of {detector.name} has {own}"
        return f"{problem}; choose levels with [a:b], or give options in build:"
    return ""
