"""Calls: stages of a detector, or copies of them, that run again with other inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.nn import ModuleDict

from kdflow.errors import choices
from kdflow.graph.copies import CopiedStages, copy_stages
from kdflow.graph.rewire import Wanted
from kdflow.ports import Call, Detector, Port, Stage
from kdflow.spec.load import Document, Steps
from kdflow.spec.method import Method
from kdflow.standard_ports import standard_of


@dataclass
class Rewiring:
    """What a call replaces: ports, single arguments and options of stages, and the stages themselves by copies.

    Attributes:
        name: The entry.
        owner: Detector that is called.
        call: Which call of it.
        wanted: Port or ``stage:argument`` -> the reference that stands there.
        found: The same places -> the node, once the reference is followed.
        options: Stage -> options.
        copies: Stage -> the stage around its copy, and all copies.
        weights: Name of the copies in ``modules:``.
    """

    name: str
    owner: str
    call: Call
    wanted: dict[str, Wanted] = field(default_factory=dict)
    found: dict[str, str] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    copies: Mapping[str, tuple[Stage, CopiedStages]] = field(default_factory=dict)
    weights: str = ""

    def name_of(self, port: str) -> str:
        """The rewired port as the method writes it: ``shared.logits``."""
        words = (word for word, place in self.call.outputs.items() if place == port)
        return f"{self.name}.{next(words, port)}"

    def enters(self, stage: str) -> bool:
        """True where an argument of this stage is replaced."""
        return any(place.startswith(f"{stage}:") for place in self.wanted)


class Calls:
    """Reads ``{call: teacher.roi, boxes: student.roi.boxes}`` and ``{call: assistant, ...}``.

    Args:
        method: The resolved method.
        document: Receives the faults.
        detectors: Owner -> detector.
        given: Values that may stand for what a call gives.
    """

    def __init__(
        self, method: Method, document: Document, detectors: Mapping[str, Detector], given: Mapping[str, Any]
    ) -> None:
        self.method, self.document, self.detectors, self.given = method, document, detectors, given
        self._copies: dict[str, Mapping[str, tuple[Stage, CopiedStages]]] = {}

    def rewiring(self, name: str, call_text: str, arguments: Mapping[str, Any], path: Steps) -> Rewiring | None:
        """What the call of a node replaces, by references; None after recording a fault."""
        called = self._called(name, call_text, path)
        if called is None:
            return None
        owner, call = called
        rewiring = Rewiring(name, owner, call)
        if call_text in self.method.modules:
            if self._is_taken(call_text):
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
            if standard_of(name) and owner in self.detectors:
                return Port(name).within(self.detectors[owner].family)
        return None

    def _called(self, name: str, call_text: str, path: Steps) -> tuple[str, Call] | None:
        """Owner and call."""
        text, place = self._text(call_text)
        place = place or (*path, "call")
        owner, _, called = text.partition(".")
        detectors, report = self.detectors, self.document.report
        if owner not in detectors:
            copies = [module for module, declared in self.method.modules.items() if declared.source]
            report(place, f'no detector "{owner}" in this run.{choices(owner, [*detectors, *copies])}')
            return None
        calls = detectors[owner].calls
        if called not in calls:
            if not any(key.startswith(f"{name}.") for key in self.given):
                known = [f"{owner}.{one}" for one in calls]
                report(place, f'{detectors[owner].name} has no call "{called}".{choices(text, known)}')
            return None
        return owner, calls[called]

    def _text(self, call: str) -> tuple[str, Steps]:
        """OWNER.CALL that a call stands for, and where a copy says so."""
        module = self.method.modules.get(call)
        return (call, ()) if module is None or module.source is None else (module.source, ("modules", call, "copy"))

    def _is_taken(self, module: str) -> bool:
        """True after recording that weights cannot be kept under this name."""
        node = self.method.nodes.get(module)
        if hasattr(ModuleDict, module):
            problem = f'torch has a "{module}" of its own where weights are kept; choose another name'
        elif node is not None and node.op is not None:
            problem = f'nodes have a "{module}" as well, and weights are kept by name; choose another name'
        else:
            return False
        self.document.report(("modules", module), problem)
        return True

    def _copied(self, module: str, detector: Detector, call: Call) -> Mapping[str, tuple[Stage, CopiedStages]]:
        """The stages of a copy, made when it is called first."""
        if module not in self._copies:
            self._copies[module] = copy_stages(detector, call, self.method.modules[module].trainable)
        return self._copies[module]

    def _rewire(self, rewiring: Rewiring, key: str, value: Any, path: Steps) -> None:
        call = rewiring.call
        if key in call.options:
            rewiring.options.setdefault(call.options[key], {})[key] = value
        elif key in call.inputs:
            rewiring.wanted[call.inputs[key]] = value, path
        else:
            known = [*call.inputs, *call.options]
            self.document.report(path, f'this call has no input or option "{key}".{choices(key, known)}')
