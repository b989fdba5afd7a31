"""What a method changes in the detectors themselves: other inputs for their stages, wherever these run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kdflow.errors import choices
from kdflow.ports import Detector
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import Method

DETECTIONS = "detections"
"""Port of what a detector predicts."""

Place = tuple[str, str]
"""Owner, and a port (``head.maps``) or an argument of a stage (``backbone:pixels``), as in :attr:`kdflow.ports.Call.inputs`."""

Wanted = tuple[Any, Steps]
"""A reference and where it is written."""


def read_wiring(
    method: Method, document: Document, detectors: Mapping[str, Detector]
) -> dict[Place, Wanted]:
    """Place -> reference and its path, from ``wiring:`` of a method; what names nothing becomes a fault.

    The words behind the owner are a call's, with its inputs, or a stage's, with its arguments:
    ``{student.backbone: {pixels: half}}``.
    """
    found: dict[Place, Wanted] = {}
    for key, inputs in method.wiring.items():
        owner, _, part = key.partition(".")
        targets = _targets(owner, part, document, detectors)
        for argument, reference in inputs.items() if targets else ():
            path: Steps = ("wiring", key, argument)
            if argument in targets:
                found[owner, targets[argument]] = reference, path
            else:
                document.report(path, f'there is no input "{argument}" here.{choices(argument, targets)}')
    return found


def _targets(owner: str, part: str, document: Document, detectors: Mapping[str, Detector]) -> dict[str, str]:
    """Argument -> place of the stage of that name, and input -> place of the call."""
    path = ("wiring", f"{owner}.{part}")
    if owner not in detectors:
        document.report(path, f'no detector "{owner}" in this run.{choices(owner, detectors)}')
        return {}
    detector = detectors[owner]
    found: dict[str, str] = {}
    if part in detector.stages:
        found |= {argument: f"{part}:{argument}" for argument in detector.stages[part].reads}
    if part in detector.calls:
        found |= detector.calls[part].inputs
    if not found:
        known = [f"{owner}.{name}" for name in dict.fromkeys((*detector.calls, *detector.stages))]
        document.report(
            path, f'{detector.name} has no call or stage "{owner}.{part}".{choices(f"{owner}.{part}", known)}'
        )
    return found


class OwnWiring:
    """The nodes that stand at the places which a method rewires.

    A port is replaced for the stages that read it; a reference of the method to that port still means the port itself.

    Args:
        wanted: Place -> reference and its path (:func:`read_wiring`).
    """

    def __init__(self, wanted: Mapping[Place, Wanted]) -> None:
        self.wanted = wanted
        self._found: dict[Place, str] = {}

    @property
    def owners(self) -> tuple[str, ...]:
        """Detectors that are rewired."""
        return tuple(dict.fromkeys(owner for owner, _ in self.wanted))

    def replaces(self, owner: str, place: str) -> bool:
        """True where the method says what stands at this place."""
        return (owner, place) in self.wanted

    def node(self, owner: str, place: str) -> str | None:
        """The node that stands at a place; None where the detector's own wiring holds, or the reference is at fault."""
        return self._found.get((owner, place))

    def follow(self, resolve: Callable[[Any, Steps], str | None]) -> None:
        """Follow the references of all places; ``resolve`` gives the node of one, or None."""
        for place, (reference, path) in self.wanted.items():
            if (node := resolve(reference, path)) is not None:
                self._found[place] = node
