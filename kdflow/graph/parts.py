"""Parts of detectors with random weights: ``modules: {dense: {build: {detector: fcos, part: head}, like: student.neck}}``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from kdflow.errors import KdflowError, choices
from kdflow.graph.copies import CopiedStages, stages_of
from kdflow.graph.node import Graph, Role
from kdflow.graph.runtime import stream_key
from kdflow.graph.wiring import Rewiring
from kdflow.ports import DETECTORS, Call, Detector, DetectorFamily, Port
from kdflow.spec.load import Steps
from kdflow.spec.method import ModuleEntry
from kdflow.spec.reference import parse_reference

if TYPE_CHECKING:
    from kdflow.graph.build import Builder


@dataclass(frozen=True)
class Place:
    """Where a part stands: a port of a detector of the run, or some of its entries.

    Attributes:
        port: Name of the port, which the built detector has as well.
        node: Its node.
        channels: Of the entries that are taken; empty where unknown.
        strides: The same.
    """

    port: str
    node: str
    channels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()


@dataclass
class Parts:
    """Detectors that are built for a part of them.

    Such a detector is an owner like any other, named after its module; whatever in it reads the port that is called like the
    place that the part stands on, reads that place. The rest of it never runs.

    Args:
        builder: Knows method, detectors and references, and receives the faults.
        seed: Seed of the weights.
        sized: False where the detectors stand for many, so that nothing is known of their sizes.
    """

    builder: Builder
    seed: int = 0
    sized: bool = True
    _found: dict[str, Rewiring | None] = field(default_factory=dict)

    def declared(self, name: str) -> bool:
        """True for the name of a module with ``build:``."""
        module = self.builder.method.modules.get(name)
        return module is not None and module.build is not None

    def whole(self, name: str) -> Rewiring | None:
        """The detector on its place; None after recording a fault, once."""
        if name not in self._found:
            self._found[name] = None  # in a circle, which the place's own reference reports
            self._found[name] = self._made(name, self.builder.method.modules[name])
        return self._found[name]

    def call(self, name: str) -> str:
        """The call that a module's bare name stands for."""
        build = self.builder.method.modules[name].build
        return build.part if build else ""

    def check(self, graph: Graph) -> None:
        """Report stages with weights that run and belong to no part."""
        for node in graph.of_role(Role.STAGE):
            if (base := self._found.get(node.owner)) is None or node.run is None:
                continue
            call = self.call(base.name)
            held = stages_of(self._detector(base), self._detector(base).calls[call])
            if node.stage not in held and any(True for _ in node.run.run.parameters()):
                problem = f'"{base.name}" was built for its {call}, and what is read of it runs its {node.stage} as well'
                self.builder.document.report(("modules", base.name, "build", "part"), problem)

    def _detector(self, rewiring: Rewiring) -> Detector:
        return self.builder.everyone[rewiring.owner]

    def _made(self, name: str, entry: ModuleEntry) -> Rewiring | None:
        path: Steps = ("modules", name)
        if self._is_taken(name, path) or (place := self._place(entry, path)) is None:
            return None
        detector = self._built(name, entry, place, (*path, "build"))
        if detector is None or not self._fits(detector, entry, place, path):
            return None
        self.builder.everyone[name] = detector
        copied = CopiedStages({stage: own.run for stage, own in detector.stages.items()}, trainable=True)
        copies = {stage: (own, copied) for stage, own in detector.stages.items()}
        return Rewiring(name, name, Call({}, {}), {place.port: place.node}, copies=copies, weights=name)

    def _is_taken(self, name: str, path: Steps) -> bool:
        """True after recording that the name means something else, too."""
        method = self.builder.method
        if name in self.builder.detectors or name in method.nodes or name in method.prepare:
            self.builder.document.report(path, f'"{name}" is the name of a detector or node as well; choose another')
            return True
        return self.builder.calls.is_taken(name)

    def _place(self, entry: ModuleEntry, path: Steps) -> Place | None:
        path, text = (*path, "like"), str(entry.like)
        if (node := self.builder.reference(text, path)) is None:
            return None
        parsed = parse_reference(text)
        detector = self.builder.detectors.get(parsed.base)
        port: Port | None = detector.ports.get(parsed.rest) if detector and not parsed.module else None
        if port is None:
            self.builder.document.report(path, f'a part stands on a port of a detector, such as student.neck, not on "{text}"')
            return None
        key: Any = slice(None) if parsed.span is None else slice(*parsed.span)
        key = key if parsed.index is None else slice(parsed.index, parsed.index + 1 or None)
        return Place(parsed.rest, node, port.channels[key], port.strides[key])

    def _built(self, name: str, entry: ModuleEntry, place: Place, path: Steps) -> Detector | None:
        """The detector, with random weights from a stream of its own."""
        build, report = entry.build, self.builder.document.report
        if build is None:
            raise AssertionError(name)
        if build.detector not in DETECTORS:
            report((*path, "detector"), f'no detector "{build.detector}".{choices(build.detector, DETECTORS.names())}')
            return None
        family = DETECTORS.get(build.detector)
        options = {**_least(family), **(_width(family, place) if self.sized else {}), **build.options}
        try:
            with torch.random.fork_rng(devices=[]), torch.device("cpu" if self.sized else "meta"):
                torch.manual_seed(stream_key(self.seed, 0, f"init/{name}"))
                return family.build(self.builder.detectors["student"].classes, **options)
        except KdflowError as error:
            report(path, str(error))
        return None

    def _fits(self, detector: Detector, entry: ModuleEntry, place: Place, path: Steps) -> bool:
        """True where the detector has the part and the place, and both are alike in size; else a fault is recorded."""
        part, report = entry.build.part if entry.build else "", self.builder.document.report
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
