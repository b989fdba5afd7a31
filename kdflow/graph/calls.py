"""Calls: stages of a detector, or copies of them, that run again with other inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdflow.errors import choices
from kdflow.graph.copies import CopiedStages, copy_stages
from kdflow.graph.parts import Parts, is_taken
from kdflow.graph.rewiring import Rewiring
from kdflow.ports import Call, Detector, Port, Stage
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import Method
from kdflow.standard_ports import standard_of


class Calls:
    """Reads ``{call: teacher.roi, boxes: student.roi.boxes}`` and ``{call: assistant, ...}``.

    Args:
        method: The resolved method.
        document: Receives the faults.
        detectors: Owner -> detector.
        given: Values that may stand for what a call gives.
        parts: Detectors that are built for a part of them.
    """

    def __init__(
        self,
        method: Method,
        document: Document,
        detectors: Mapping[str, Detector],
        given: Mapping[str, Any],
        parts: Parts,
    ) -> None:
        self.method, self.document, self.detectors = method, document, detectors
        self.given, self.parts = given, parts
        self._copies: dict[str, Mapping[str, tuple[Stage, CopiedStages]]] = {}

    def rewiring(self, name: str, call_text: str, arguments: Mapping[str, Any], path: Steps) -> Rewiring | None:
        """What the call of a node replaces, by references; None after recording a fault."""
        called = self._called(name, call_text, path)
        if called is None:
            return None
        owner, call = called
        rewiring = Rewiring(name, owner, call)
        if self.parts.declared(owner):
            rewiring.base = whole = self.parts.whole(owner)
            rewiring.weights, rewiring.copies = owner, whole.copies if whole else {}
        elif call_text in self.method.modules:
            if is_taken(self.method, self.document, call_text):
                return None
            rewiring.weights = call_text
            rewiring.copies = self._copied(call_text, self.detectors[owner], call)
        for key, value in arguments.items():
            self._rewire(rewiring, key, value, (*path, key))
        return rewiring

    def given_output(self, call_text: str, output: str) -> Port | None:
        """What a given value stands for that takes the place of a call's output; None where that is no standard port."""
        owner, _, call = self._text(call_text)[0].partition(".")
        for name in (f"{call}.{output}", f"{call.partition('.')[0]}.{output}", output):
            if standard_of(name) and (family := self.parts.family_of(owner)):
                return Port(name).within(family)
        return None

    def _called(self, name: str, call_text: str, path: Steps) -> tuple[str, Call] | None:
        """Owner and call."""
        text, place = self._text(call_text)
        place = place or (*path, "call")
        owner, _, called = text.partition(".")
        report = self.document.report
        if self.parts.declared(owner) and self.parts.whole(owner) is None:
            return None
        detectors = self.parts.everyone
        if owner not in detectors:
            modules = [module for module, declared in self.method.modules.items() if declared.op is None]
            report(place, f'no detector "{owner}" in this run.{choices(owner, [*self.detectors, *modules])}')
            return None
        calls = detectors[owner].calls
        if called not in calls:
            if not any(key.startswith(f"{name}.") for key in self.given):
                known = [f"{owner}.{one}" for one in calls]
                report(place, f'{detectors[owner].name} has no call "{called}".{choices(text, known)}')
            return None
        return owner, calls[called]

    def _text(self, call: str) -> tuple[str, Steps]:
        """OWNER.CALL that a call stands for, and where a module says so."""
        module = self.method.modules.get(call)
        if self.parts.declared(call):
            return f"{call}.{self.parts.call(call)}", ("modules", call, "build", "part")
        return (call, ()) if module is None or module.source is None else (module.source, ("modules", call, "copy"))

    def _copied(self, module: str, detector: Detector, call: Call) -> Mapping[str, tuple[Stage, CopiedStages]]:
        """The stages of a copy, made when it is called first."""
        if module not in self._copies:
            self._copies[module] = copy_stages(detector, call, self.method.modules[module].trainable)
        return self._copies[module]

    def _rewire(self, rewiring: Rewiring, key: str, value: Any, path: Steps) -> None:
        call = rewiring.call
        if key in call.inputs:
            rewiring.wanted[call.inputs[key]] = value, path
        elif key in call.options:
            rewiring.options.setdefault(call.options[key], {})[key] = value
        else:
            known = [*call.inputs, *call.options]
            self.document.report(path, f'this call has no input or option "{key}".{choices(key, known)}')
